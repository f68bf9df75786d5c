"""Endpoints that send too much data, answer too slowly, redirect, send malformed bodies, or echo the API key."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import sys
import time
import zlib
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from subprocess import run

import pytest

from basereward.data.schema.group import Part, Turn
from basereward.errors import ModelError
from basereward.inference.judges.endpoint import MAX_BYTES, Endpoint
from basereward.inference.judges.engine import Answer, Completion, Failed, Request
from basereward.io.http.client import LINE_BYTES
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.verdicts import compiled_pattern, parse_rating, parse_verdict
from tests.helpers.chat_servers import serving_bytes

SAMPLING = SamplingParams(max_tokens=9, temperature=0.5, seed=3)
SECRET = "sk-local-0123456789"
Send = Callable[[socket.socket, dict[str, str]], None]


def chat_body(text: str) -> bytes:
    """Return the JSON body of a chat completion with one choice."""
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def http_response(body: bytes, *, status: int = 200, extra: str = "") -> bytes:
    """Return a complete HTTP response with a Content-Length header."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def request_answer(url: str, **options: object) -> Answer:
    """Return the answer to one request; by default the engine makes one attempt with a timeout of 1 s."""
    request = Request("a", (Turn("user", (Part("Say a."),)),))
    engine = Endpoint(url, "judge", **{"attempts": 1, "timeout_s": 1.0, **options})  # type: ignore[arg-type]
    (answer,) = engine.generate([request], SAMPLING)
    return answer


def endless_body(connection: socket.socket, head: dict[str, str]) -> None:
    """Send an endless body without a Content-Length header."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for piece in repeat(b" " * 65_536):
        connection.sendall(piece)


def endless_chunks(connection: socket.socket, head: dict[str, str]) -> None:
    """Send an endless body in chunked transfer encoding."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in repeat(b"10000\r\n" + b" " * 65_536 + b"\r\n"):
        connection.sendall(piece)


def endless_size(connection: socket.socket, head: dict[str, str]) -> None:
    """Send the size of a chunk without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in repeat(b"0" * 65_536):
        connection.sendall(piece)


def endless_trailers(connection: socket.socket, head: dict[str, str]) -> None:
    """Send trailers without an end after a complete body."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    for piece in repeat(b"X: " + b"y" * 65_000 + b"\r\n"):
        connection.sendall(piece)


def endless_extensions(connection: socket.socket, head: dict[str, str]) -> None:
    """Send chunks of one byte, each with a long extension."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in repeat(b"1;" + b"y" * 65_000 + b"\r\n \r\n"):
        connection.sendall(piece)


def endless_informational(connection: socket.socket, head: dict[str, str]) -> None:
    """Send headers with status 100, after which another header follows."""
    for piece in repeat(b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 65_000 + b"\r\n\r\n"):
        connection.sendall(piece)


def endless_error(connection: socket.socket, head: dict[str, str]) -> None:
    """Send an endless body with status 400."""
    connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
    for piece in repeat(b"no" * 32_768):
        connection.sendall(piece)


def gzip_bomb(connection: socket.socket, head: dict[str, str]) -> None:
    """Send 128 MiB of blanks, compressed with gzip to about a thousandth of that size."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    body = b"".join(compressor.compress(b" " * 2**20) for _ in range(128)) + compressor.flush()
    connection.sendall(http_response(body, extra="Content-Encoding: gzip\r\n"))


def unknown_encoding(connection: socket.socket, head: dict[str, str]) -> None:
    """Send a body with the content encoding `br`, which the client does not accept."""
    connection.sendall(http_response(chat_body("yes"), extra="Content-Encoding: br\r\n"))


@pytest.mark.parametrize("send", [endless_size, endless_trailers, endless_extensions, endless_informational])
def test_endless_framing_fails_by_its_size(send: Send) -> None:
    """What is around the body has a limit of bytes too, long before the timeout."""
    with serving_bytes(send) as url:
        answer = request_answer(url, attempts=5, timeout_s=600.0)
    assert isinstance(answer, Failed)
    assert answer.attempts == 1
    assert f"{LINE_BYTES:,}" in answer.reason if send is endless_size else f"{MAX_BYTES:,}" in answer.reason


@pytest.mark.parametrize("send", [endless_body, endless_chunks, endless_error, gzip_bomb, unknown_encoding])
def test_oversized_response_fails(send: Send) -> None:
    """A response above the size limit or in an unknown encoding fails at the first attempt; the reason names the limit
    or the encoding."""
    with serving_bytes(send) as url:
        answer = request_answer(url, attempts=5, timeout_s=30.0)
    assert isinstance(answer, Failed)
    assert answer.attempts == 1
    assert "'br'" in answer.reason if send is unknown_encoding else f"{MAX_BYTES:,}" in answer.reason


def test_endless_responses_use_bounded_memory() -> None:
    """Eight concurrent endless responses raise the peak memory of the process by less than 512 MiB."""
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    requests = [Request(str(i), (Turn("user", (Part("Say."),)),)) for i in range(8)]
    with serving_bytes(endless_body) as url:
        answers = list(Endpoint(url, "judge", attempts=1, timeout_s=30.0).generate(requests, SAMPLING))
    assert all(isinstance(answer, Failed) for answer in answers)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 512 * 1024


def test_unrequested_gzip_is_decompressed() -> None:
    """A gzip body within the size limit is decompressed; a truncated gzip body fails."""
    compressed = gzip.compress(chat_body("yes"))
    with serving_bytes(lambda c, _: c.sendall(http_response(compressed, extra="Content-Encoding: gzip\r\n"))) as url:
        assert request_answer(url) == Completion("a", "yes")
    with serving_bytes(
        lambda c, _: c.sendall(http_response(compressed[:-9], extra="Content-Encoding: gzip\r\n"))
    ) as url:
        assert isinstance(request_answer(url), Failed)


# One entry per slow sender that was not interrupted.
FINISHED_DRIPS: list[str] = []


def slow_sender(*, head: bytes, byte: bytes) -> Send:
    """Return a sender that sends `head` and then `byte` twenty times a second for one minute."""

    def send(connection: socket.socket, _: dict[str, str]) -> None:
        connection.sendall(head)
        for _ in range(1200):
            connection.sendall(byte)
            time.sleep(0.05)
        FINISHED_DRIPS.append("a minute")

    return send


SLOW_SENDERS = {
    "body with a length": slow_sender(head=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", byte=b" "),
    "body without a length": slow_sender(head=b"HTTP/1.1 200 OK\r\n\r\n", byte=b" "),
    "chunks": slow_sender(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", byte=b"1\r\n \r\n"),
    "size of a chunk": slow_sender(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", byte=b"0"),
    "head": slow_sender(head=b"HTTP/1.1 200 OK\r\nX: ", byte=b"x"),
    "status line": slow_sender(head=b"HTTP/1.1 200 ", byte=b"x"),
    "status 100": slow_sender(head=b"", byte=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing": slow_sender(head=b"", byte=b""),
}


@pytest.mark.parametrize("where", SLOW_SENDERS)
def test_timeout_covers_the_whole_request(where: str) -> None:
    """A byte every 0.05 s never triggers a socket read timeout, so only a deadline for the request ends it, long before
    the minute that the server would continue. The reason contains the number of seconds."""
    with serving_bytes(SLOW_SENDERS[where]) as url:
        answer = request_answer(url, timeout_s=0.4)
    assert isinstance(answer, Failed)
    assert "0.4 s" in answer.reason
    assert not FINISHED_DRIPS


def test_tls_handshake_has_the_same_deadline() -> None:
    """A server that never answers the TLS client hello fails within the timeout."""
    with serving_bytes(SLOW_SENDERS["nothing"]) as url:
        answer = request_answer(url.replace("http://", "https://"), timeout_s=0.4)
    assert isinstance(answer, Failed)


def test_redirect_is_not_followed() -> None:
    """A redirect would send the API key to another address, so status 307 raises an error after one request."""
    requests: list[str] = []

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        requests.append("asked")
        connection.sendall(http_response(b"", status=307, extra="Location: /elsewhere\r\n"))

    with serving_bytes(send) as url, pytest.raises(ModelError, match="307"):
        request_answer(url)
    assert requests == ["asked"]


INVALID_RESPONSES = {
    "negative chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
}


@pytest.mark.parametrize("name", INVALID_RESPONSES)
def test_malformed_response_fails_and_does_not_blame_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative chunk size and two lengths are errors of the response, so the request fails and the call goes on."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving_bytes(lambda connection, _: connection.sendall(INVALID_RESPONSES[name])) as url:
        answer = request_answer(url, timeout_s=10.0)
    assert isinstance(answer, Failed)
    assert "key" not in answer.reason


INVALID_BODIES = {
    "two choices": json.dumps({"choices": [{"message": {"content": "a"}}] * 2}).encode(),
    "a million choices": b'{"choices": [' + b"{}," * 1_000_000 + b"{}]}",
    "nested deep": b"[" * 1_000_000,
    "nested deep and closed": b'{"choices": ' + b"[" * 500 + b"]" * 500 + b"}",
    "a number for text": b'{"choices": [{"message": {"content": 7}}]}',
    "a huge count": b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1e300}}',
    "a huge number": b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}",
    "no UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "an array": b"[]",
}


@pytest.mark.parametrize("name", INVALID_BODIES)
def test_malformed_body_fails(name: str) -> None:
    """Bodies with two choices, deep nesting, numbers out of range or a wrong type fail; the reason stays below 300
    characters."""
    with serving_bytes(lambda connection, _: connection.sendall(http_response(INVALID_BODIES[name]))) as url:
        answer = request_answer(url, timeout_s=10.0)
    assert isinstance(answer, Failed)
    assert len(answer.reason) < 300


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
@pytest.mark.parametrize("padding", [0, 190])
def test_echoed_key_is_not_in_any_message(status: int, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that echoes the API key leaks neither the key nor its first letters into a reason or an error, also
    where the message is truncated inside the key."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        connection.sendall(http_response(("x" * padding + head["Authorization"]).encode(), status=status))

    with serving_bytes(send) as url:
        try:
            message = repr(request_answer(url))
        except ModelError as error:
            message = str(error)
    assert SECRET not in message
    assert SECRET[:8] not in message
    assert "xxx" in message if padding else "***" in message


def test_key_in_a_completion_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion that contains the API key is returned without it."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        connection.sendall(http_response(chat_body(f"You sent {head['Authorization']}.")))

    with serving_bytes(send) as url:
        answer = request_answer(url)
    assert isinstance(answer, Completion)
    assert answer.text.startswith("You sent")
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "http://me:word@localhost/v1",
        "me:word@localhost/v1",
        "ftp://me:word@localhost/v1",
        "http://localhost/v1?key=word",
        "http://localhost/v1#word",
        "http://localhost:99999/v1",
        "http://[::1/v1",
        "http://",
    ],
)
def test_invalid_address_error_hides_the_secret(url: str) -> None:
    """An address with a password, a query or another fault is refused, and the message contains no secret."""
    with pytest.raises(ModelError) as excinfo:
        Endpoint(url, "judge")
    assert "word@" not in str(excinfo.value)
    assert "=word" not in str(excinfo.value)
    assert "#word" not in str(excinfo.value)


LONG_TEXTS = {
    "opened for ever": "<answer>" * 200_000,
    "opened and closed once": "<answer>" * 200_000 + "</answer>",
    "closed for ever": "</answer>" * 200_000,
    "opened and closed": "<answer>1</answer>" * 90_000 + "<answer>",
    "thinking for ever": "<think>" * 200_000,
    "blanks": " " * 1_600_000,
}
PARSER_SCRIPT = """
import json, sys
from basereward.model.generation.verdicts import compiled_pattern, parse_rating, parse_verdict
from basereward.evaluation.annotation.rows import reasoning
pattern = compiled_pattern("Overall Judgment.*?Answer ([12]) is better")
for text in json.load(sys.stdin):
    assert parse_verdict(text) is parse_rating(text, scale=5) is parse_verdict(text, pattern) is None
    reasoning(text)
"""


def test_verdict_parsing_takes_linear_time() -> None:
    """Texts of 1.6 MB without a verdict are parsed by every parser within 20 s in a subprocess.

    A search for pairs of tags with backtracking took more than 60 s for one text.
    """
    texts = json.dumps([*LONG_TEXTS.values(), "Overall Judgment " * 94_000])
    process = run(
        [sys.executable, "-c", PARSER_SCRIPT],
        input=texts,
        text=True,
        timeout=20,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert process.returncode == 0


def test_long_text_is_parsed_by_tags_only() -> None:
    """Tags are found in a text of any length; a user's pattern is only searched within its length limit, after the
    reasoning."""
    assert parse_verdict("x" * 1_000_000 + "<answer>2</answer>") == 2
    assert parse_rating("x" * 1_000_000 + "<answer>4</answer>", scale=5) == 4
    pattern = compiled_pattern("Answer ([12]) is better")
    assert parse_verdict(f"<think>{'x' * 1_000_000}</think>Answer 1 is better", pattern) == 1
    assert parse_verdict(f"{'x' * 1_000_000}Answer 1 is better", pattern) is None
