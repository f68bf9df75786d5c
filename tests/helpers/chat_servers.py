"""A real HTTP server with OpenAI's chat completions that can also misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

Reply: TypeAlias = Callable[[dict[str, Any], int], Any]
"""`(request body, number of earlier requests) -> answer text, a status, or one of the faults below`."""

SLEEP, DRIP, DROP, HALF, NOT_JSON, NO_CHOICES, EMPTY, USAGE = (object() for _ in range(8))


IMPOSSIBLE = b'{"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": Infinity}}'


class ChatServer:
    """Answer with `reply`, and record the requests and the largest number of concurrent requests."""

    def __init__(self, reply: Reply, *, delay_s: float = 0.0) -> None:
        self.reply = reply
        self.delay_s = delay_s
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.asked)
                    server.asked.append(body)
                    server.headers.append(dict(self.headers))
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    time.sleep(server.delay_s)
                    answer = server.reply(body, number)
                finally:
                    # Before the answer is sent: the client may send its next request before this thread continues.
                    with server._lock:
                        server._at_once -= 1
                server._answer(self, answer)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def _answer(self, handler: BaseHTTPRequestHandler, answer: Any) -> None:
        status = 200
        if isinstance(answer, int):
            status, answer = answer, "refused"
        body = json.dumps(
            {
                "choices": [{"message": {"role": "assistant", "content": "" if answer is EMPTY else answer}}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3},
            },
            default=str,
        ).encode()
        if answer is SLEEP:
            time.sleep(3)
            return
        if answer is DROP:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if answer is DRIP:
            _drip(handler)
            return
        body = {NOT_JSON: b"<html>busy</html>", NO_CHOICES: b'{"choices": []}', USAGE: IMPOSSIBLE}.get(answer, body)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) * (2 if answer is HALF else 1)))
        handler.end_headers()
        handler.wfile.write(body)
        if answer is HALF:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)


def _drip(handler: BaseHTTPRequestHandler) -> None:
    """Send blanks for three seconds, so that the connection stays open without an answer."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(15):
        try:
            handler.wfile.write(b"1\r\n \r\n")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.2)


@contextmanager
def serving(reply: Reply, *, delay_s: float = 0.0) -> Iterator[ChatServer]:
    """Run a chat server in a thread."""
    server = ChatServer(reply, delay_s=delay_s)
    thread = threading.Thread(target=server._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server._http.shutdown()
        server._http.server_close()
        thread.join()


@contextmanager
def serving_bytes(send: Callable[[socket.socket, dict[str, str]], None]) -> Iterator[str]:
    """Run a server that reads a request and then lets `send` write to its socket; yield its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    connected: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as file:
            head = dict(line.decode().strip().split(": ", 1) for line in iter(file.readline, b"\r\n") if b": " in line)
            file.read(int(head.get("Content-Length", 0)))
            send(connection, head)
        connection.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connected.append(connection)
                threading.Thread(target=answer, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.close()
        for connection in connected:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def words(body: dict[str, Any]) -> str:
    """Return all text of the last message of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
