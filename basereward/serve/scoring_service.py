"""What every protocol uses: reads a body within the limits, and has a request scored or a text written."""

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

from basereward.data.schema.group import Group
from basereward.errors import BaseRewardError, DataError
from basereward.serve.messages import TextSettings, WrittenText
from basereward.serve.metrics import ServerMetrics
from basereward.serve.reading.json_body import parse_body
from basereward.serve.reading.request_reader import RequestReader, prompt_key
from basereward.serve.settings import ServerSettings
from basereward.serve.worker_pool import ServerFull, WorkerDied, WorkerPool

RETRY_S = "1"
"""Seconds after which a client should try again."""
CLIENT_GONE = 499
"""The status in metrics and log of a request whose client has gone; nobody reads it. nginx uses it too."""
JSON_TYPE = "application/json"

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
            HTTPException: 401, 408, 413, 415 or 422: the key, the time of arrival, the size, the content type or the
                form of the body is not as it should be.
            DataError: it is no JSON.
        """
        self.check_key(http)
        _check_content_type(http)
        value = parse_body(await self._content(http))
        try:
            return body_type.model_validate(value)
        except ValidationError as error:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, _faults(error)) from error

    async def _content(self, http: HTTPRequest) -> bytes:
        """
        Raises:
            HTTPException: 408, the body does not arrive in time; 413, it is too large.
        """
        limit, seconds = self.settings.max_body_bytes, self.settings.arrival_s
        too_large = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {limit:,} bytes")
        # What h11 has let through is a number.
        if int(http.headers.get("content-length", 0)) > limit:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in http.stream():
                    content += chunk
                    if len(content) > limit:
                        raise too_large
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, f"the body is not complete after {seconds:g} s") from None
        except ClientDisconnect:
            raise HTTPException(CLIENT_GONE, "the client has gone") from None
        return bytes(content)

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
        self,
        http: HTTPRequest,
        prompt: str | Sequence[Any],
        responses: Sequence[Any],
        images: Sequence[Any] = (),
        response_images: Sequence[Sequence[Any]] = (),
        *,
        videos: Sequence[Any] = (),
    ) -> list[float]:
        """Scores the responses to one prompt.

        Args:
            http: the request; when its client goes, the work is given up.
            prompt, responses, images, response_images, videos: as in `RequestReader.group`.

        Raises:
            DataError: the model cannot score the request.
            ServerFull: too many requests wait.
            WorkerDied: the worker has died.
            HTTPException: 504, there is no answer in time; 499, the client has gone.
        """
        # In a thread, because it decodes base64 and may download images.
        group = await asyncio.to_thread(self._reader.group, prompt, responses, images, response_images, videos=videos)
        scores: list[float] = await self._answer(http, group)
        self.metrics.scored(len(scores))
        return scores

    async def write(self, http: HTTPRequest, messages: Sequence[Any], settings: TextSettings) -> WrittenText:
        """Has the text written that follows a conversation.

        Args:
            http: the request; when its client goes, the work is given up.
            messages: in the form of OpenAI.
            settings: how the text is written.

        Raises:
            DataError, ServerFull, WorkerDied, HTTPException: as `score`.
        """
        group = await asyncio.to_thread(self._reader.conversation, messages)
        text: WrittenText = await self._answer(http, group, text=settings)
        return text

    async def _answer(self, http: HTTPRequest, group: Group, *, text: TextSettings | None = None) -> Any:
        """The scores of a group, or the text that follows its prompt; errors are those of `score`."""
        key = prompt_key(group)
        worker = self.pool.worker_of(key)
        number, future = worker.submit(key, group, text=text)
        waiting = asyncio.wrap_future(future)
        gone = asyncio.create_task(_disconnected(http))
        try:
            await asyncio.wait([waiting, gone], timeout=self.settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            # The client has gone, there is no answer in time, or another request of the same body has failed.
            if not waiting.done():
                worker.cancel(number)
            has_gone = gone.done()
            gone.cancel()
        if has_gone:
            raise HTTPException(CLIENT_GONE, "the client has gone")
        seconds = f"{self.settings.timeout_s:g} s"
        raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, f"the request has no answer after {seconds}")


async def _disconnected(http: HTTPRequest) -> None:
    """Waits until the client closes the connection. The body has been read, so no other message of it is to come."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _check_content_type(http: HTTPRequest) -> None:
    """
    Raises:
        HTTPException: 415, the body is not declared as JSON, or is compressed.
    """
    # A web page of anyone can make a browser send other types to this machine, without asking the server first.
    declared = http.headers.get("content-type", "")
    if declared.partition(";")[0].strip().lower() != JSON_TYPE:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the header `Content-Type: {JSON_TYPE}` is needed; the request has {declared[:80]!r}",
        )
    encoding = http.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body has the content encoding {encoding[:40]!r}; send it without one",
            {"Accept-Encoding": "identity"},
        )


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


def error_status(error: BaseRewardError) -> tuple[int, dict[str, str] | None]:
    """The status and the headers of the answer to a request that raised an error of ours.

    >>> error_status(DataError("there are no responses")), error_status(ServerFull("wait"))
    ((422, None), (429, {'Retry-After': '1'}))
    """
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    return int(status), {"Retry-After": RETRY_S} if status in SENT_AGAIN else None


def error_answer(error: BaseRewardError) -> JSONResponse:
    """The answer to a request that raised an error of ours, in any protocol without a form of its own."""
    return JSONResponse({"detail": str(error)}, *error_status(error))
