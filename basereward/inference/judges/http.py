"""HTTP requests with a limit of bytes and a limit of time that hold against any server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

PIECE = 65_536
PACKED = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class TooLarge(Exception):
    """A response has more bytes than are read, or is packed in a way that was not asked for."""


class TooSlow(Exception):
    """A response was not whole in time, or was cut off by `Calls.abort`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response."""

    status: int
    content: bytes
    retry_after: str = ""


class Calls:
    """Requests of several threads, of which each ends in time, and all can be ended at once.

    A timeout of `requests` is of one wait for bytes: a server that sends a byte a second, in the head of a response or
    in its body, never meets it. So a timer shuts the socket down at the deadline, wherever the thread waits.

    Args:
        max_bytes: of one response as it is sent, and again after unpacking.
        timeout_s: of one request, from the connection to the last byte.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._under_way: set[_Call] = set()
        self._aborted = False

    def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """Sends a JSON body and reads the whole response. No redirect is followed.

        Raises:
            TooLarge: the response is longer than `max_bytes`.
            TooSlow: it was not whole after `timeout_s`, or `abort` was called.
            OSError: the connection failed or broke; what `requests` raises is one.
        """
        with self._call() as call, requests.Session() as session:
            adapter = _Adapter(call)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            try:
                with session.post(
                    url,
                    json=body,
                    headers={"Accept-Encoding": "identity", **headers},
                    timeout=self.timeout_s,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    content = _unpacked(self._read(response), response.headers, self.max_bytes)
                    after = response.headers.get("Retry-After", "")
            except (OSError, urllib3.exceptions.HTTPError) as error:
                call.check()  # the deadline shows as a broken connection
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(type(error).__name__) from error
            call.check()  # or as the end of a body that does not tell its length
            return Reply(response.status_code, content, after)

    def abort(self) -> None:
        """Ends all requests that are under way, and every later one at once."""
        with self._lock:
            self._aborted = True
            under_way = list(self._under_way)
        for call in under_way:
            call.end("cut off")

    def _read(self, response: requests.Response) -> bytes:
        content = bytearray()
        for piece in response.raw.stream(PIECE, decode_content=False):
            content += piece
            if len(content) > self.max_bytes:
                raise TooLarge(f"a response of more than {self.max_bytes:,} bytes")
        return bytes(content)

    @contextlib.contextmanager
    def _call(self) -> Iterator[_Call]:
        call = _Call(self.timeout_s)
        with self._lock:
            self._under_way.add(call)
            aborted = self._aborted
        try:
            if aborted:
                call.end("cut off")
            call.check()
            yield call
        finally:
            call.timer.cancel()
            with self._lock:
                self._under_way.discard(call)


class _Call:
    """One request: its socket, once there is one, and the timer that ends it."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self._ended = ""
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.timer = threading.Timer(timeout_s, self.end, [f"no whole answer after {timeout_s:g} s"])
        self.timer.daemon = True
        self.timer.start()

    def connected(self, found: socket.socket) -> None:
        """Takes the socket of the request."""
        with self._lock:
            self._socket = found
            late = bool(self._ended)
        if late:
            _shut(found)

    def end(self, reason: str) -> None:
        """Shuts the socket down, which wakes a thread that waits for bytes of it."""
        with self._lock:
            self._ended = self._ended or reason
            found = self._socket
        if found is not None:
            _shut(found)

    def check(self) -> None:
        """Raises: TooSlow, where the request was ended or is past its deadline."""
        if self._ended or time.monotonic() > self.deadline:
            raise TooSlow(self._ended or f"no whole answer after {self.timeout_s:g} s")


def _shut(found: socket.socket) -> None:
    # The method of the plain socket: that of an SSL socket would take its state away under the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(found, socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Of one request, whose socket it hands to `_Call.connected`."""

    def __init__(self, call: _Call) -> None:
        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                call.connected(self.sock)

            def _new_conn(self) -> socket.socket:
                found = super()._new_conn()
                call.connected(found)  # before a TLS handshake, which may drip too
                return found

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                found = super()._new_conn()
                call.connected(found)
                return found

            def connect(self) -> None:
                super().connect()
                call.connected(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self._pools = {"http": PlainPool, "https": SecurePool}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **options)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = self._pools
        return manager


def _unpacked(content: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """A body without its content encoding, which no server was asked for.

    Raises:
        TooLarge: it unpacks to more than `max_bytes`, or is packed in a way that is not known.
        OSError: it is damaged.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return content
    if encoding not in PACKED:
        raise TooLarge(f"a response with the content encoding {encoding[:40]!r}, which was not asked for")
    unpacker = zlib.decompressobj(PACKED[encoding])
    try:
        unpacked = unpacker.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise ConnectionError(f"the response is no {encoding}") from error
    if len(unpacked) > max_bytes:
        raise TooLarge(f"a response that unpacks to more than {max_bytes:,} bytes")
    if not unpacker.eof:
        raise ConnectionError(f"the response is {encoding} that was cut")
    return unpacked
