"""What every protocol uses: reads a body within the limits, and scores a request."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import HTTPException
from fastapi import Request as HTTPRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from basereward.errors import BaseRewardError, DataError
from basereward.io.limits import parse_json
from basereward.serve.metrics import ServerMetrics
from basereward.serve.reading.request_reader import RequestReader, prompt_key
from basereward.serve.settings import ServerSettings
from basereward.serve.worker_pool import ServerFull, WorkerDied, WorkerPool

BODY_S = 30.0
"""Seconds that the body of a request may take to arrive."""
RETRY_S = "1"
"""Seconds after which a client should try again."""
DISCONNECT_POLL_S = 0.2
"""Seconds between looks whether the client has gone."""

STATUSES = (
    (ServerFull, HTTPStatus.TOO_MANY_REQUESTS),
    (WorkerDied, HTTPStatus.SERVICE_UNAVAILABLE),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
)
"""Status by the type of an error; any other one is a fault of the server."""
SENT_AGAIN = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses after which the same request may succeed."""

Body = TypeVar("Body", bound=BaseModel)


class ScoringService:
    """Scores the requests of all protocols.

    Args:
        pool: the workers.
        settings: limits and permissions.

    Attributes:
        metrics: counts of requests.
    """

    def __init__(self, pool: WorkerPool, settings: ServerSettings) -> None:
        self.pool = pool
        self.settings = settings
        self.metrics = ServerMetrics(pool)
        self._reader = RequestReader(settings)

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.pool.info["model"])

    def check_key(self, http: HTTPRequest) -> None:
        """
        Raises:
            HTTPException: 401, the request has no or another key.
        """
        if self.settings.key is None:
            return
        given = http.headers.get("authorization", "")
        # In constant time, so that the time of an answer says nothing about the key.
        if not hmac.compare_digest(given.encode(), f"Bearer {self.settings.key}".encode()):
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "the header `Authorization: Bearer KEY` is missing or wrong")

    async def read(self, http: HTTPRequest, body_type: type[Body]) -> Body:
        """Reads and checks the body of a request.

        Args:
            http: the request.
            body_type: the form of its body.

        Raises:
            HTTPException: 408, it does not arrive in time; 413, it is too large; 422, it has another form.
            DataError: it is no JSON.
        """
        self.check_key(http)
        content = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for chunk in http.stream():
                    content += chunk
                    if len(content) > self.settings.max_body_bytes:
                        allowed = f"{self.settings.max_body_bytes:,} bytes are allowed"
                        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is too large; {allowed}")
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"the body is not complete after {BODY_S:g} s") from None
        except ClientDisconnect:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the client has gone") from None
        try:
            value = parse_json(content.decode("utf-8"), where="the body", error=DataError)
            return body_type.model_validate(value)
        except UnicodeDecodeError as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"the body is not UTF-8: {error}") from error
        except ValidationError as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, _faults(error)) from error

    async def score_all(
        self, http: HTTPRequest, requests: Sequence[tuple[str | Sequence[Any], Sequence[Any], Sequence[Any]]]
    ) -> list[list[float]]:
        """As `score`, for several prompts at once."""
        tasks = [asyncio.create_task(self.score(http, *request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # After the error of one, the others are given up.
            for task in tasks:
                task.cancel()

    async def score(
        self, http: HTTPRequest, prompt: str | Sequence[Any], responses: Sequence[Any], images: Sequence[Any] = ()
    ) -> list[float]:
        """Scores the responses to one prompt.

        Args:
            http: the request; when its client goes, the work is given up.
            prompt, responses, images: as in `RequestReader.group`.

        Raises:
            DataError: the model cannot score the request.
            ServerFull: too many requests wait.
            WorkerDied: the worker has died.
            HTTPException: 504, there is no answer in time; 400, the client has gone.
        """
        # In a thread, because it decodes base64 and may download images.
        group = await asyncio.to_thread(self._reader.group, prompt, responses, images)
        key = prompt_key(group)
        worker = self.pool.worker_of(key)
        number, future = worker.submit(key, group)
        waiting = asyncio.wrap_future(future)
        try:
            scores = await self._result(http, waiting)
        finally:
            if not waiting.done():
                worker.cancel(number)
        self.metrics.scored(len(scores))
        return scores

    async def _result(self, http: HTTPRequest, waiting: asyncio.Future[list[float]]) -> list[float]:
        """
        Raises:
            HTTPException: 504, there is no answer in time; 400, the client has gone.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeout_s
        while True:
            done, _ = await asyncio.wait([waiting], timeout=DISCONNECT_POLL_S)
            if done:
                return waiting.result()
            if loop.time() > deadline:
                seconds = f"{self.settings.timeout_s:g} s"
                raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, f"the request has no answer after {seconds}")
            if await http.is_disconnected():
                raise HTTPException(HTTPStatus.BAD_REQUEST, "the client has gone")


def body_schema(form: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI page says of the body of a route, which `ScoringService.read` reads and not FastAPI."""
    content = {"application/json": {"schema": form.model_json_schema()}}
    return {"requestBody": {"content": content, "required": True}}


def _faults(error: ValidationError) -> str:
    """All faults of a body in one line: where, what, and never the value, which may be megabytes."""
    faults: list[str] = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False)[:10]:
        place = ".".join(map(str, fault["loc"])) or "body"
        faults.append(f"{place}: {fault['msg']}")
    return "; ".join(faults)


def error_answer(error: BaseRewardError) -> JSONResponse:
    """The answer to a request that raised an error of ours, in any protocol."""
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {"Retry-After": RETRY_S} if status in SENT_AGAIN else None
    return JSONResponse({"detail": str(error)}, status, headers)
