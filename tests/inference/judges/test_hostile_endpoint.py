"""Endpoints that send too much, too slowly, too often, or send back what they were sent."""

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
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.verdicts import compiled_pattern, parse_rating, parse_verdict
from tests.helpers.chat_servers import serving_bytes

HOW = SamplingParams(max_tokens=9, temperature=0.5, seed=3)
SECRET = "sk-local-0123456789"
Send = Callable[[socket.socket, dict[str, str]], None]


def message(text: str) -> bytes:
    """A body of the protocol."""
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def whole(body: bytes, *, status: int = 200, extra: str = "") -> bytes:
    """A response with its length."""
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def asked(url: str, **options: object) -> Answer:
    """The answer to one request, in one attempt unless told."""
    request = Request("a", (Turn("user", (Part("Say a."),)),))
    engine = Endpoint(url, "judge", **{"attempts": 1, "timeout_s": 1.0, **options})  # type: ignore[arg-type]
    (answer,) = engine.generate([request], HOW)
    return answer


def endless_body(connection: socket.socket, head: dict[str, str]) -> None:
    """One that names no length."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for piece in repeat(b" " * 65_536):
        connection.sendall(piece)


def endless_chunks(connection: socket.socket, head: dict[str, str]) -> None:
    """In chunks."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in repeat(b"10000\r\n" + b" " * 65_536 + b"\r\n"):
        connection.sendall(piece)


def endless_error(connection: socket.socket, head: dict[str, str]) -> None:
    """With a status that is no success."""
    connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
    for piece in repeat(b"no" * 32_768):
        connection.sendall(piece)


def bomb(connection: socket.socket, head: dict[str, str]) -> None:
    """128 MiB of blanks as gzip of a thousandth of that."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(b" " * 2**20) for _ in range(128)) + packer.flush()
    connection.sendall(whole(body, extra="Content-Encoding: gzip\r\n"))


def unknown_packing(connection: socket.socket, head: dict[str, str]) -> None:
    """Packed in a way that nobody asked for."""
    connection.sendall(whole(message("yes"), extra="Content-Encoding: br\r\n"))


@pytest.mark.parametrize("send", [endless_body, endless_chunks, endless_error, bomb, unknown_packing])
def test_a_response_is_read_to_its_limit(send: Send) -> None:
    """The request fails at its first attempt, whatever is left of it; the reason has the limit or the encoding."""
    with serving_bytes(send) as url:
        answer = asked(url, attempts=5, timeout_s=30.0)
    assert isinstance(answer, Failed)
    assert answer.attempts == 1
    assert "'br'" in answer.reason if send is unknown_packing else f"{MAX_BYTES:,}" in answer.reason


def test_a_limit_of_memory_holds() -> None:
    """Eight endless responses at once need less than 512 MiB more than the process had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    requests = [Request(str(i), (Turn("user", (Part("Say."),)),)) for i in range(8)]
    with serving_bytes(endless_body) as url:
        answers = list(Endpoint(url, "judge", attempts=1, timeout_s=30.0).generate(requests, HOW))
    assert all(isinstance(answer, Failed) for answer in answers)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


def test_gzip_that_was_not_asked_for_is_unpacked() -> None:
    """As long as it is within the limit; one that is cut is no answer."""
    packed = gzip.compress(message("yes"))
    with serving_bytes(lambda c, _: c.sendall(whole(packed, extra="Content-Encoding: gzip\r\n"))) as url:
        assert asked(url) == Completion("a", "yes")
    with serving_bytes(lambda c, _: c.sendall(whole(packed[:-9], extra="Content-Encoding: gzip\r\n"))) as url:
        assert isinstance(asked(url), Failed)


WHOLE: list[str] = []  # of drips that went on for their minute


def drip(*, head: bytes, byte: bytes) -> Send:
    """Twenty bytes a second after a head, for a minute."""

    def send(connection: socket.socket, _: dict[str, str]) -> None:
        connection.sendall(head)
        for _ in range(1200):
            connection.sendall(byte)
            time.sleep(0.05)
        WHOLE.append("a minute")

    return send


DRIPS = {
    "body with a length": drip(head=b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", byte=b" "),
    "body without a length": drip(head=b"HTTP/1.1 200 OK\r\n\r\n", byte=b" "),
    "chunks": drip(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", byte=b"1\r\n \r\n"),
    "size of a chunk": drip(head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", byte=b"0"),
    "head": drip(head=b"HTTP/1.1 200 OK\r\nX: ", byte=b"x"),
    "status line": drip(head=b"HTTP/1.1 200 ", byte=b"x"),
    "status 100": drip(head=b"", byte=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing": drip(head=b"", byte=b""),
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_timeout_is_of_the_whole_request(where: str) -> None:
    """A byte every twentieth of a second meets no timeout of a wait for bytes: only a deadline ends it, long before the
    minute that the server would go on for. The reason has the number of seconds."""
    with serving_bytes(DRIPS[where]) as url:
        answer = asked(url, timeout_s=0.4)
    assert isinstance(answer, Failed)
    assert "0.4 s" in answer.reason
    assert not WHOLE


def test_a_tls_handshake_has_the_same_deadline() -> None:
    """A server that never says hello."""
    with serving_bytes(DRIPS["nothing"]) as url:
        answer = asked(url.replace("http://", "https://"), timeout_s=0.4)
    assert isinstance(answer, Failed)


def test_a_redirect_is_not_followed() -> None:
    """The key would go with it."""
    seen: list[str] = []

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        seen.append("asked")
        connection.sendall(whole(b"", status=307, extra="Location: /elsewhere\r\n"))

    with serving_bytes(send) as url, pytest.raises(ModelError, match="307"):
        asked(url)
    assert seen == ["asked"]


BODIES = {
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


@pytest.mark.parametrize("name", BODIES)
def test_what_is_no_answer_is_none(name: str) -> None:
    """Two choices where one was asked for, depth, numbers out of range."""
    with serving_bytes(lambda connection, _: connection.sendall(whole(BODIES[name]))) as url:
        answer = asked(url, timeout_s=10.0)
    assert isinstance(answer, Failed)
    assert len(answer.reason) < 300


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
@pytest.mark.parametrize("padding", [0, 190])
def test_a_key_that_is_sent_back_is_in_no_message(status: int, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In no reason and no error, not even its first letters where a message is cut in its midst."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        connection.sendall(whole(("x" * padding + head["Authorization"]).encode(), status=status))

    with serving_bytes(send) as url:
        try:
            told = repr(asked(url))
        except ModelError as error:
            told = str(error)
    assert SECRET not in told
    assert SECRET[:8] not in told
    assert "xxx" in told if padding else "***" in told


def test_a_key_that_a_model_writes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with the key in it is kept without."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    def send(connection: socket.socket, head: dict[str, str]) -> None:
        connection.sendall(whole(message(f"You sent {head['Authorization']}.")))

    with serving_bytes(send) as url:
        answer = asked(url)
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
def test_an_address_with_a_secret_is_refused_without_saying_it(url: str) -> None:
    """Whatever else is wrong with it."""
    with pytest.raises(ModelError) as told:
        Endpoint(url, "judge")
    assert "word@" not in str(told.value)
    assert "=word" not in str(told.value)
    assert "#word" not in str(told.value)


LONG = {
    "opened for ever": "<answer>" * 200_000,
    "opened and closed once": "<answer>" * 200_000 + "</answer>",
    "closed for ever": "</answer>" * 200_000,
    "opened and closed": "<answer>1</answer>" * 90_000 + "<answer>",
    "thinking for ever": "<think>" * 200_000,
    "blanks": " " * 1_600_000,
}
TIMED = """
import json, sys
from basereward.model.generation.verdicts import compiled_pattern, parse_rating, parse_verdict
from basereward.evaluation.annotation.rows import reasoning
pattern = compiled_pattern("Overall Judgment.*?Answer ([12]) is better")
for text in json.load(sys.stdin):
    assert parse_verdict(text) is parse_rating(text, scale=5) is parse_verdict(text, pattern) is None
    reasoning(text)
"""


def test_the_time_for_a_verdict_is_linear() -> None:
    """Six texts of 1.6 MB each have no verdict by any reader, all in a process that is stopped after 20 seconds; one
    search for pairs of tags took more than 60."""
    texts = json.dumps([*LONG.values(), "Overall Judgment " * 94_000])
    done = run(
        [sys.executable, "-c", TIMED], input=texts, text=True, timeout=20, check=False, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0


def test_a_long_text_is_read_by_its_tags_and_not_by_a_pattern() -> None:
    """Of any length by tags; by a pattern of one's own only within its limit, and after the reasoning."""
    assert parse_verdict("x" * 1_000_000 + "<answer>2</answer>") == 2
    assert parse_rating("x" * 1_000_000 + "<answer>4</answer>", scale=5) == 4
    pattern = compiled_pattern("Answer ([12]) is better")
    assert parse_verdict(f"<think>{'x' * 1_000_000}</think>Answer 1 is better", pattern) == 1
    assert parse_verdict(f"{'x' * 1_000_000}Answer 1 is better", pattern) is None
