"""HTTP requests whose limits of size and time hold against any server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from basereward.io.http.addresses import is_public

# Bytes that are read from a response at once.
CHUNK_BYTES = 65_536

LINE_BYTES = 65_536
"""Most bytes of a line of the header, of a size of a chunk, or of a trailer; as `http.client` allows for headers."""
FRAME_FACTOR = 8
"""Most bytes that are received for each byte of the limit: a chunk of one byte takes six."""

# Content encodings that can be decoded, with the `wbits` argument of zlib; 16 selects the header of gzip.
WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class TooLarge(Exception):
    """A response is longer than the limit, or has a content encoding that cannot be decoded."""


class TooSlow(Exception):
    """A response was not complete in time, or `HTTPClient.abort` ended it."""


class MalformedHeader(ConnectionError):
    """A response has a header that the protocol does not allow."""


class PrivateAddress(Exception):
    """A connection leads to this machine or to a private network, and the client allows public addresses alone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete response.

    Attributes:
        status: HTTP status code.
        content: the body, decoded.
        retry_after: value of the header `Retry-After`; empty without it.

    >>> Reply(429, b"", retry_after="2").status
    429
    """

    status: int
    content: bytes
    retry_after: str = ""


class HTTPClient:
    """Sends requests from several threads; each request ends in time, and all can be aborted at once.

    The timeout of `requests` limits one wait for bytes. A server that sends one byte per second, in the header or in
    the body, never exceeds it. Therefore a timer shuts the socket down at the deadline, wherever the thread waits.
    Sizes are limited where bytes are received too, because a header, a line with the size of a chunk, and trailers are
    no part of the body and may have no end either.

    Args:
        max_bytes: limit of one response, as sent and again after decoding.
        timeout_s: limit of one request in seconds, from the connection to the last byte.
        public_only: whether a connection to this machine or to a private network is refused. The address of the
            connection itself is checked: the answer of a name server may change after an earlier look. Where the
            environment names a proxy, its address is not checked.

    >>> HTTPClient(max_bytes=1024, timeout_s=5.0).timeout_s
    5.0
    """

    def __init__(self, *, max_bytes: int, timeout_s: float, public_only: bool = False) -> None:
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.public_only = public_only
        self._lock = threading.Lock()
        self._active: set[_Deadline] = set()
        self._aborted = False

    def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """Sends a JSON body and reads the complete response. Redirects are not followed.

        Args:
            url: where the body is sent.
            body: the JSON object.
            headers: further headers of the request.

        Raises:
            TooLarge: the response is longer than `max_bytes`.
            TooSlow: it was not complete after `timeout_s` seconds, or `abort` was called.
            PrivateAddress: `public_only` does not allow the address of the connection.
            MalformedHeader: the response has an invalid header; it is an OSError.
            OSError: the connection failed or broke; the exceptions of `requests` are subclasses.
        """
        return self._send("POST", url, headers, body)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Reads the complete response to a GET request. Redirects are not followed; errors are those of `post`."""
        return self._send("GET", url, headers or {}, None)

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> Reply:
        """One request; see `post`."""
        # A session for each request: the adapter belongs to one deadline, and a pooled connection could be shut down
        # by the timer of an earlier request.
        with self._deadline() as deadline, requests.Session() as session:
            adapter = _Adapter(deadline, self.max_bytes, public_only=self.public_only)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            try:
                with session.request(
                    method,
                    url,
                    json=body,
                    headers={"Accept-Encoding": "identity", **headers},
                    timeout=self.timeout_s,
                    # A redirect could lead the API key to another host.
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    content = _decoded(self._read(response), response.headers, self.max_bytes)
                    retry_after = response.headers.get("Retry-After", "")
            except (OSError, urllib3.exceptions.HTTPError) as error:
                # The socket that the timer shut down shows as a broken connection.
                deadline.check()
                if isinstance(error, requests.exceptions.InvalidHeader):
                    raise MalformedHeader("the response has an invalid header") from error
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(type(error).__name__) from error
            # Without a Content-Length, it shows as the regular end of the body.
            deadline.check()
            return Reply(response.status_code, content, retry_after)

    def abort(self) -> None:
        """Ends all active requests, and every later one immediately."""
        with self._lock:
            self._aborted = True
            active = list(self._active)
        for deadline in active:
            deadline.end("the request was aborted")

    def _read(self, response: requests.Response) -> bytes:
        """The body as it was sent.

        Raises:
            TooLarge: it is longer than `max_bytes`; the rest is not read.
        """
        content = bytearray()
        # `decode_content` would let a small body of a hostile server expand without a limit; see `_decoded`.
        try:
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                content += chunk
                if len(content) > self.max_bytes:
                    raise TooLarge(f"the response has more than {self.max_bytes:,} bytes")
        except ValueError as error:
            # urllib3 passes a negative chunk size on to `read`.
            raise ConnectionError("the response has a malformed chunk") from error
        return bytes(content)

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[_Deadline]:
        """The deadline of a request, which is active during the block.

        Raises:
            TooSlow: `abort` was called earlier.
        """
        deadline = _Deadline(self.timeout_s)
        with self._lock:
            self._active.add(deadline)
            aborted = self._aborted
        try:
            if aborted:
                deadline.end("the request was aborted")
            deadline.check()
            yield deadline
        finally:
            deadline.timer.cancel()
            with self._lock:
                self._active.discard(deadline)


class _Deadline:
    """The deadline of one request: a timer that shuts down the request's socket."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self._reason = ""
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.timer = threading.Timer(timeout_s, self.end, [f"the response was not complete after {timeout_s:g} s"])
        # A timer that is still running must not keep the process from exiting.
        self.timer.daemon = True
        self.timer.start()

    def attach(self, connection: socket.socket) -> None:
        """Sets the socket that is shut down at the deadline; if the deadline has passed, shuts it down now."""
        with self._lock:
            self._socket = connection
            ended = bool(self._reason)
        if ended:
            _shut_down(connection)

    def end(self, reason: str) -> None:
        """Shuts the socket down, which wakes up the thread that waits for its bytes."""
        with self._lock:
            self._reason = self._reason or reason
            connection = self._socket
        if connection is not None:
            _shut_down(connection)

    def check(self) -> None:
        """Checks that the request may go on.

        Raises:
            TooSlow: the request was ended, or its deadline has passed.
        """
        if self._reason or time.monotonic() > self.deadline:
            raise TooSlow(self._reason or f"the response was not complete after {self.timeout_s:g} s")


def _shut_down(connection: socket.socket) -> None:
    # The method of the plain socket: the method of an SSL socket removes the SSL state under the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Limited:
    """The file of a socket, from which a limited number of bytes is read, header and framing of the body included.

    Args:
        file: of the socket.
        max_bytes: limit of the body.
    """

    def __init__(self, file: Any, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._left = FRAME_FACTOR * max_bytes + LINE_BYTES

    def readline(self, size: int | None = -1) -> bytes:
        """A line: the status, a field of the header, the size of a chunk, or a trailer."""
        most = LINE_BYTES + 1
        line: bytes = self._file.readline(most if size is None or size < 0 else min(size, most))
        if len(line) > LINE_BYTES:
            raise TooLarge(f"the response has a line of more than {LINE_BYTES:,} bytes outside of its body")
        return self._counted(line)

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes; None or a negative size: until the end."""
        return self._counted(self._file.read(self._room(size)))

    def read1(self, size: int | None = -1) -> bytes:
        """As `read`, with at most one call of the system."""
        return self._counted(self._file.read1(self._room(size)))

    def _room(self, size: int | None) -> int:
        # One more byte shows that there is more.
        most = self._left + 1
        return most if size is None or size < 0 else min(size, most)

    def _counted(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise TooLarge(
                f"the response has more than {self._max_bytes:,} bytes, {FRAME_FACTOR} times as many with its framing"
            )
        return content

    def readinto(self, buffer: Any) -> int:
        """As `read`, into a buffer."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Adapter(HTTPAdapter):
    """The adapter of one request, which attaches the request's socket to its deadline, and limits what it receives."""

    def __init__(self, deadline: _Deadline, max_bytes: int, *, public_only: bool) -> None:
        class Response(HTTPResponse):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.fp: Any = _Limited(self.fp, max_bytes)

        # urllib3 creates connections by class and offers no callback for a new socket.
        class Plain(HTTPConnection):
            response_class = Response

            def connect(self) -> None:
                super().connect()
                deadline.attach(self.sock)

            def _new_conn(self) -> socket.socket:
                connection = super()._new_conn()
                _check_peer(connection, public_only=public_only and self.proxy is None)
                # Before the request through a proxy, which a server can also delay byte by byte.
                deadline.attach(connection)
                return connection

        class Secure(HTTPSConnection):
            response_class = Response

            def _new_conn(self) -> socket.socket:
                connection = super()._new_conn()
                _check_peer(connection, public_only=public_only and self.proxy is None)
                # Before the TLS handshake, which a server can also delay byte by byte.
                deadline.attach(connection)
                return connection

            def connect(self) -> None:
                super().connect()
                # The handshake has wrapped the socket in a new one.
                deadline.attach(self.sock)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self._pools = {"http": PlainPool, "https": SecurePool}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Makes direct connections use the classes of this request."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
        """Makes connections through a proxy use the classes of this request."""
        manager = super().proxy_manager_for(*arguments, **options)
        # A SOCKS proxy has pool classes of its own, which must stay; requests to it have the timeout of `requests`.
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = self._pools
        return manager


def _check_peer(connection: socket.socket, *, public_only: bool) -> None:
    """Closes a new connection, before anything is sent, if it leads where the client does not allow it.

    Raises:
        PrivateAddress: it leads to this machine or to a private network.
    """
    if public_only and not is_public(connection.getpeername()[0]):
        connection.close()
        raise PrivateAddress("the host is an address of a private network; nothing is downloaded from there")


def _decoded(content: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """A body without its content encoding. The requests ask for none, but some servers apply one anyway.

    Raises:
        TooLarge: the decoded body is longer than `max_bytes`, or the encoding is unknown.
        OSError: the body is damaged.

    >>> _decoded(zlib.compress(b"{}"), {"Content-Encoding": "deflate"}, 1024)
    b'{}'
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return content
    if encoding not in WINDOW_BITS:
        raise TooLarge(f"the response has the content encoding {encoding[:40]!r}, which was not requested")
    decoder = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        decoded = decoder.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise ConnectionError(f"the response is not valid {encoding}") from error
    if len(decoded) > max_bytes:
        raise TooLarge(f"the decoded response has more than {max_bytes:,} bytes")
    if not decoder.eof:
        raise ConnectionError(f"the {encoding} response is truncated")
    return decoded
