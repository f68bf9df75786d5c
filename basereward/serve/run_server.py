"""Runs a server until it is stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import uvicorn

from basereward.inference.parallel_scorer import threads_of_process
from basereward.io.progress import phase
from basereward.recipe.trust import is_trusted
from basereward.serve.app import make_app
from basereward.serve.messages import WorkerSetup
from basereward.serve.reading.connections import limited_connection
from basereward.serve.settings import ServerSettings
from basereward.serve.worker_pool import WorkerPool

KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open; longer than the pools of common clients."""
MAX_CONNECTIONS = 4096
STOP_S = 30
"""Seconds that requests have to end after the server was stopped."""


def open_pool(
    model: str, *, settings: ServerSettings, devices: Sequence[str | None] = (None,), dtype: str | None = None
) -> WorkerPool:
    """Start the workers of a server and wait until they have opened the model; the arguments are those of `serve`.

    Raises:
        BaseRewardError: the model cannot be opened.
    """
    setups: list[WorkerSetup] = []
    threads = threads_of_process(devices)
    for device in devices:
        setup = WorkerSetup(
            model=model,
            device=device,
            dtype=dtype,
            threads=threads,
            window_s=settings.window_s,
            tokens=settings.tokens,
            prefix_bytes=settings.prefix_bytes,
            trusted=is_trusted(),
            parent=os.getpid(),
        )
        setups.append(setup)
    return WorkerPool(setups, max_waiting=settings.max_waiting)


def serve(
    model: str,
    *,
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8008,
    devices: Sequence[str | None] = (None,),
    dtype: str | None = None,
) -> None:
    """Open a model and serve it until SIGINT or SIGTERM; requests that have begun are answered first.

    Args:
        model: as in `basereward.load`.
        settings: limits and permissions.
        host, port: where the server listens.
        devices: one worker for each; None: the GPU if there is one.
        dtype: as in `basereward.load`.

    Raises:
        BaseRewardError: the model cannot be opened.
    """
    with phase("loading the model"):
        pool = open_pool(model, settings=settings, devices=devices, dtype=dtype)
    config = uvicorn.Config(
        make_app(pool, settings),
        host=host,
        port=port,
        http=limited_connection(settings.arrival_s),
        # Our own lines say more, and never the address of a client.
        access_log=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        limit_concurrency=MAX_CONNECTIONS,
        server_header=False,
    )
    # After a graceful stop by Ctrl-C, uvicorn raises it again.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()
