"""The web application: routes of all protocols, health, information and metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from prometheus_client import CONTENT_TYPE_LATEST

from basereward.errors import BaseRewardError
from basereward.serve.protocols import native, openrlhf, vllm
from basereward.serve.scoring_service import ScoringService, error_answer
from basereward.serve.settings import ServerSettings
from basereward.serve.worker_pool import WorkerPool

logger = logging.getLogger(__name__)


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
    for protocol in (native, openrlhf, vllm):
        app.include_router(protocol.router(service))

    @app.exception_handler(BaseRewardError)
    async def answer(http: HTTPRequest, error: BaseRewardError) -> Response:
        """Answers errors of ours, which any protocol may raise."""
        return error_answer(error)

    @app.middleware("http")
    async def observe(http: HTTPRequest, call_next: Callable[[HTTPRequest], Awaitable[Response]]) -> Response:
        """Counts and logs every request, never its content."""
        began = time.perf_counter()
        response = await call_next(http)
        seconds = time.perf_counter() - began
        # The path of the route, not of the request: a client could fill the memory with paths of its own.
        route = http.scope.get("route")
        path = getattr(route, "path", "unknown")
        service.metrics.request(path, status=response.status_code, seconds=seconds)
        logger.info("%s %s %d %.1f ms", http.method, path, response.status_code, 1000 * seconds)
        return response

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
