"""HTTP requests as bytes over raw sockets, and pictures as they stand in JSON bodies."""

from __future__ import annotations

import base64
import io
import json
import socket
from typing import Any

import PIL.Image

from tests.helpers.served_model import ServedModel


def png(color: str, *, side: int = 56) -> bytes:
    """Return the bytes of a small picture."""
    content = io.BytesIO()
    PIL.Image.new("RGB", (side, side), color).save(content, "PNG")
    return content.getvalue()


def image_uri(content: bytes) -> str:
    """Return a picture as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def request_bytes(served: ServedModel, path: str, body: Any) -> bytes:
    """Return a complete POST request with a JSON body and the key."""
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in served.headers.items()]
    lines += [f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content


def connect(served: ServedModel, content: bytes) -> socket.socket:
    """Open a connection and send bytes."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=120)
    connection.sendall(content)
    return connection


def read_status(connection: socket.socket) -> int:
    """Read the answer until the server closes or is silent, close the connection, and return the status."""
    with connection, connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])
