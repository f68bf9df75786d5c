"""The local web page of annotators: an HTTP server on this machine, with the standard library alone.

Only a browser on this machine reaches it, and only pages that it served itself may use it: it listens on 127.0.0.1, the
names in `Host` and `Origin` must be of this machine (which stops pages that point their own name to 127.0.0.1), and
what is sent must be JSON, which other pages cannot send without being asked first.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.construction.pictures import IMAGES, MEDIA_TYPES, NAME
from basereward.io.limits import parse_json

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
MAX_BODY = 65_536
"""Bytes of a request; an annotation has a few hundred."""
TIMEOUT_S = 30.0
"""Seconds without a byte from a client after which its connection is closed."""
MAX_CONNECTIONS = 64

Action = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What a request does: an object in, an object out; a wrong request raises DataError."""


class PageServer(ThreadingHTTPServer):
    """Serves one page, its images, and actions that the page calls.

    Args:
        port: 0 takes a free one.
        page: the HTML document.
        images: the folder whose images are served, by their names.
        actions: name -> what `POST /NAME` does.

    Raises:
        DataError: the port is in use, or not allowed.

    >>> with PageServer(0, page="<!doctype html>", images=Path("images"), actions={}) as server:
    ...     server.address.startswith("http://127.0.0.1:")
    True
    """

    daemon_threads = True
    # Threads of open connections must not delay the end.
    block_on_close = False

    def __init__(self, port: int, *, page: str, images: Path, actions: Mapping[str, Action]) -> None:
        self.page = page.encode("utf-8", "replace")
        self.images = images
        self.actions = actions
        self.connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise DataError(
                f"port {port} of {HOST} cannot be used: {error.strerror or error}. Give another one by --port; 0 takes "
                "a free one"
            ) from error

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread, unless too many connections are open."""
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers the requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs an error of a connection for debugging: a client that disconnects is not an error of this program."""
        logger.debug("a connection has failed", exc_info=True)


class _RefusedRequest(Exception):
    """A request that is not answered.

    Args:
        status: of the answer.
        reason: for the page.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    server_version = "basereward"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers with the page or an image."""
        try:
            self._check_origin()
            if self.path == "/":
                self._answer(HTTPStatus.OK, self.server.page, kind="text/html; charset=utf-8")
            elif self.path == "/favicon.ico":
                self._answer(HTTPStatus.NO_CONTENT, b"", kind="image/png")
            else:
                self._answer_image()
        except _RefusedRequest as refusal:
            self._refuse(refusal)

    def do_POST(self) -> None:
        """Answers an action of the page."""
        try:
            self._check_origin()
            action = self.server.actions.get(self.path.removeprefix("/"))
            if action is None:
                raise _RefusedRequest(HTTPStatus.NOT_FOUND, "there is no such action")
            content = self._read_object()
            try:
                result = action(content)
            except DataError as error:
                raise _RefusedRequest(HTTPStatus.BAD_REQUEST, str(error)) from error
            except OSError as error:
                # A full disk: the page must not go on as if the annotation were kept.
                reason = f"nothing was saved: {error.strerror or error}"
                raise _RefusedRequest(HTTPStatus.INSUFFICIENT_STORAGE, reason) from error
            self._answer_json(HTTPStatus.OK, result)
        except _RefusedRequest as refusal:
            self._refuse(refusal)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Logs nothing, because the file of annotations has everything that the requests would show."""

    def _check_origin(self) -> None:
        """
        Raises:
            _RefusedRequest: the request is not from a page of this server.
        """
        port = self.server.server_address[1]
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        if self.headers.get("Host") not in hosts:
            raise _RefusedRequest(HTTPStatus.MISDIRECTED_REQUEST, f"open {self.server.address}")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            raise _RefusedRequest(HTTPStatus.FORBIDDEN, "only the page of this server may do this")
        # Browsers send this header with the requests of a link or an image in another site's page.
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise _RefusedRequest(HTTPStatus.FORBIDDEN, "only the page of this server may do this")

    def _read_object(self) -> dict[str, Any]:
        """The JSON object of the body.

        Raises:
            _RefusedRequest: the body is too large, incomplete, or not a JSON object.
        """
        if self.headers.get_content_type() != "application/json":
            raise _RefusedRequest(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "application/json is needed")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _RefusedRequest(HTTPStatus.LENGTH_REQUIRED, "a length is needed")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise _RefusedRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MAX_BODY:,} bytes are read")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _RefusedRequest(HTTPStatus.BAD_REQUEST, "the body is incomplete")
        try:
            content = parse_json(body.decode(), where="the body")
        except (DataError, UnicodeDecodeError) as error:
            raise _RefusedRequest(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not isinstance(content, dict):
            raise _RefusedRequest(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
        return content

    def _answer_image(self) -> None:
        name = self.path.removeprefix(f"/{IMAGES}/")
        # The names of our files alone, so that no path leaves the folder.
        if NAME.fullmatch(name) is None:
            raise _RefusedRequest(HTTPStatus.NOT_FOUND, "there is no such image")
        try:
            content = (self.server.images / name).read_bytes()
        except OSError as error:
            raise _RefusedRequest(HTTPStatus.NOT_FOUND, "there is no such image") from error
        self._answer(HTTPStatus.OK, content, kind=MEDIA_TYPES[Path(name).suffix.removeprefix(".")])

    def _refuse(self, refusal: _RefusedRequest) -> None:
        # Otherwise the unread rest of a body would be parsed as the next request.
        self.close_connection = True
        self._answer_json(refusal.status, {"error": str(refusal)})

    def _answer_json(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        self._answer(status, json.dumps(content, allow_nan=False).encode(), kind="application/json")

    def _answer(self, status: HTTPStatus, content: bytes, *, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
