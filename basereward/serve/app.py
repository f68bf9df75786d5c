"""The web application: routes of all protocols, health, information and metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from basereward.errors import BaseRewardError
from basereward.serve.metrics import ServerMetrics
from basereward.serve.protocols import chat, native, openrlhf, vllm
from basereward.serve.scoring_service import ScoringService, error_answer
from basereward.serve.settings import ServerSettings
from basereward.serve.worker_pool import WorkerPool

logger = logging.getLogger(__name__)


class _Observer:
    """Counts and logs every request, never its content.

    It passes messages on as they are: Starlette's `BaseHTTPMiddleware` would not tell a route that its client has gone.

    Args:
        app: answers the requests.
        metrics: counts them.
    """

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        # Without an answer, an exception has passed through here.
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - began
            # The path of the route, not of the request: a client could fill the memory with paths of its own.
            path = getattr(scope.get("route"), "path", "unknown")
            self._metrics.request(path, status=status, seconds=seconds)
            logger.info("%s %s %d %.1f ms", scope["method"], path, status, 1000 * seconds)


def make_app(pool: WorkerPool, settings: ServerSettings) -> FastAPI:
    """The application of a server.

    Args:
        pool: the workers; the application closes them when it ends.
        settings: limits and permissions.
    """
    service = ScoringService(pool, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    app = FastAPI(title="BaseReward", summary="Scores of responses by a reward model", lifespan=lifespan)
    for protocol in (native, openrlhf, vllm, chat):
        app.include_router(protocol.router(service))

    @app.exception_handler(BaseRewardError)
    async def answer(http: HTTPRequest, error: BaseRewardError) -> Response:
        """Answers errors of ours, which any protocol may raise."""
        return error_answer(error)

    app.add_middleware(_Observer, metrics=service.metrics)

    @app.get("/health")
    async def health(response: Response) -> dict[str, Any]:
        """Whether all workers have the model open; 503 when none has."""
        ready = sum(worker.is_ready for worker in pool.workers)
        if not ready:
            response.status_code = 503
        return {"status": "ok" if ready == len(pool.workers) else "degraded", "workers": ready}

    @app.get("/info")
    async def info(http: HTTPRequest) -> dict[str, Any]:
        """The model: name, hash, kind, and mean and standard deviation of its scores on validation data."""
        service.check_key(http)
        return pool.info

    @app.get("/metrics")
    async def metrics(http: HTTPRequest) -> Response:
        """Metrics in the text format of Prometheus."""
        service.check_key(http)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app
