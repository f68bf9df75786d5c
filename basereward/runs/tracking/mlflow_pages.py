"""MLflow's server for `make ui`, whose pages open on training runs.

The pages of MLflow 3.17 open on traces of language-model applications until a person has clicked `Model training`,
whatever kind the experiment has; the browser then remembers it. This server makes the other choice the first one. It is
an app in the sense of `mlflow server --app-name basereward`, and differs from MLflow's own in nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from mlflow.server.fastapi_app import app

__all__ = ["app"]

DEFAULTS = {"mlflow.workflowType_v1": '"machine_learning"', "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
"""What the pages keep in the browser: the kind of work, and whether the assistant has opened by itself before."""
SCRIPT = (
    "<script>for (const [key, value] of Object.entries({defaults}))"
    " localStorage.getItem(key) ?? localStorage.setItem(key, value)</script>"
)


def with_defaults(page: str) -> str:
    """The page with a script that stores `DEFAULTS` in the browser, where it has no such values yet.

    >>> with_defaults("<html><head></head></html>").startswith("<html><head><script>")
    True
    """
    script = SCRIPT.replace("{defaults}", json.dumps(DEFAULTS))
    return page.replace("<head>", f"<head>{script}", 1)


@app.middleware("http")  # type: ignore[untyped-decorator]
async def add_defaults(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add the script to the page that holds the whole application."""
    response = await call_next(request)
    if request.method != "GET" or not response.headers.get("content-type", "").startswith("text/html"):
        return response
    # The server's answers are streams, which the type of a response does not say.
    chunks: Any = getattr(response, "body_iterator")  # noqa: B009
    body = b"".join([chunk async for chunk in chunks])
    page = with_defaults(body.decode())
    # Its length, its tag and its date would be those of the page without the script.
    dropped = ("content-length", "etag", "last-modified")
    headers = {name: value for name, value in response.headers.items() if name not in dropped}
    return Response(page, response.status_code, headers)
