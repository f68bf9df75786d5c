"""The HTTP client for OpenAI-compatible chat endpoints, tested against a local server that answers correctly or fails
on purpose."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.schema.group import IMAGE, Image, Part, Turn
from basereward.errors import ModelError, SilentError
from basereward.inference.judges.endpoint import Endpoint, read_extra
from basereward.inference.judges.engine import Answer, Completion, Failed, Request
from basereward.inference.judges.open_engine import open_engine
from basereward.model.generation.generate import SamplingParams
from tests.helpers.chat_servers import DRIP, DROP, EMPTY, HALF, NO_CHOICES, NOT_JSON, SLEEP, USAGE, serving, words
from tests.helpers.support import picture

SAMPLING = SamplingParams(max_tokens=9, temperature=0.5, seed=3)


def request(name: str, *images: Image) -> Request:
    """Return a request whose user turn has the images first and then the text `Say {name}.`."""
    return Request(name, (Turn("user", (*[IMAGE] * len(images), Part(f"Say {name}."))),), images)


def generate(url: str, requests: list[Request], **options: Any) -> dict[str, Answer]:
    """Send the requests to the endpoint at `url` and return the answers by request id."""
    engine = Endpoint(url, "judge", **{"first_wait_s": 0.01, "timeout_s": 1.0, **options})
    return {answer.id: answer for answer in engine.generate(requests, SAMPLING)}


def test_extra_body_keys_are_sent() -> None:
    """`extra` adds a key, replaces a default value, and removes a key that is set to null."""
    extra = read_extra('{"reasoning_effort": "low", "max_completion_tokens": 5, "max_tokens": null, "temperature": 1}')
    with serving(lambda body, number: "yes") as server:
        generate(server.url, [request("a")], extra=extra)
    (body,) = server.asked
    assert "max_tokens" not in body
    expected = {"reasoning_effort": "low", "max_completion_tokens": 5, "temperature": 1, "model": "judge"}
    assert {key: body[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[1]", "an object is needed"), ('{"stream": true}', "without the keys")],
)
def test_invalid_extra_body_is_refused(text: str, message: str) -> None:
    """A body that is not a JSON object or sets `stream` is refused before a request is sent; `local` takes no extra
    body."""
    with pytest.raises(ModelError, match=message):
        open_engine("judge", endpoint="http://localhost/v1", send=text)
    with pytest.raises(ModelError, match="leave it out"):
        open_engine("judge", endpoint="local", send="{}")


def test_every_request_is_answered_once() -> None:
    """All answers have the text and token counts of the server, and at most `concurrency` requests run at the same
    time."""
    names = [str(i) for i in range(20)]
    with serving(lambda body, number: words(body), delay_s=0.02) as server:
        answers = generate(server.url, [request(name) for name in names], concurrency=3)
    assert answers == {name: Completion(name, f"Say {name}.", 7, 3) for name in names}
    assert len(server.asked) == 20
    assert 2 <= server.most_at_once <= 3
    sent = {key: server.asked[0][key] for key in ("model", "max_tokens", "temperature")}
    assert sent == {"model": "judge", "max_tokens": 9, "temperature": 0.5}


def test_seed_is_that_of_the_request() -> None:
    """Each request has its own seed, which is the same whatever is asked with it, and another one for another seed of
    all."""
    with serving(lambda body, number: "yes") as server:
        generate(server.url, [request(name) for name in ("a", "b", "c")])
        generate(server.url, [request("b")])
        list(Endpoint(server.url, "judge").generate([request("b")], replace(SAMPLING, seed=4)))
    seeds = [(words(body), body["seed"]) for body in server.asked]
    assert len(dict(seeds[:3]).values()) == 3
    assert seeds[3] in seeds[:3]
    assert len({seed for _, seed in seeds}) == 4
    assert all(0 <= seed < 2**31 for _, seed in seeds)


def test_requests_are_read_lazily() -> None:
    """A source of any length is never held in memory: after three answers few of the 1000 requests have been read."""
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for i in range(1000):
            read += 1
            yield request(str(i))

    with serving(lambda body, number: "yes") as server:
        answers = Endpoint(server.url, "judge", concurrency=4).generate(requests(), SAMPLING)
        for _ in range(3):
            next(answers)
        assert read <= 3 + 2 * 4
        answers.close()  # type: ignore[attr-defined]


def test_images_are_sent_in_order(tmp_path: Path) -> None:
    """A JPEG file is sent unchanged, a BMP file and a PIL image are sent as PNG with the same pixels, all before the
    text."""
    jpeg, bitmap = tmp_path / "a.jpg", tmp_path / "b.bmp"
    picture(0).save(jpeg)
    picture(1).save(bitmap)
    with serving(lambda body, number: "yes") as server:
        generate(server.url, [request("x", jpeg, bitmap, picture(2))])
    first, second, third, text = server.asked[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Say x."}
    uris = [part["image_url"]["url"] for part in (first, second, third)]
    assert [uri.partition(";")[0] for uri in uris] == ["data:image/jpeg", "data:image/png", "data:image/png"]
    contents = [base64.b64decode(uri.partition(",")[2]) for uri in uris]
    assert contents[0] == jpeg.read_bytes()
    assert PIL.Image.open(io.BytesIO(contents[1])).tobytes() == picture(1).tobytes()
    assert PIL.Image.open(io.BytesIO(contents[2])).tobytes() == picture(2).tobytes()


@pytest.mark.parametrize(
    "fault",
    [SLEEP, DRIP, DROP, HALF, NOT_JSON, NO_CHOICES, EMPTY, USAGE, 429, 500, 503],
    ids=["sleep", "drip", "drop", "half", "html", "no choices", "empty", "usage", "429", "500", "503"],
)
def test_transient_failure_is_retried(fault: Any) -> None:
    """The first attempt of every request fails; the second attempt of every request is answered."""
    seen: set[str] = set()

    def reply(body: dict[str, Any], number: int) -> Any:
        first_attempt = words(body) not in seen
        seen.add(words(body))
        return fault if first_attempt else "yes"

    with serving(reply) as server:
        answers = generate(server.url, [request(name) for name in "abc"])
    assert all(isinstance(answer, Completion) and answer.text == "yes" for answer in answers.values())
    assert len(server.asked) == 6


def test_request_fails_after_the_last_attempt() -> None:
    """A request that fails in all three attempts ends as `Failed` with the last reason; the other requests are
    answered."""
    with serving(lambda body, number: 500 if "b" in words(body) else "yes") as server:
        answers = generate(server.url, [request(name) for name in "abc"], attempts=3)
    assert isinstance(answers["a"], Completion)
    failed = answers["b"]
    assert isinstance(failed, Failed)
    assert failed.attempts == 3
    assert "500" in failed.reason
    assert len(server.asked) == 5


def test_rejected_request_is_not_retried() -> None:
    """Status 400 fails the one request at its first attempt; the other requests are answered."""
    with serving(lambda body, number: 400 if "b" in words(body) else "yes") as server:
        answers = generate(server.url, [request(name) for name in "abc"])
    assert isinstance(answers["b"], Failed)
    assert answers["b"].attempts == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "message"), [(401, "API key in the environment variable MY_KEY"), (404, "no model")]
)
def test_error_of_every_request_stops_the_run(status: int, message: str) -> None:
    """A missing API key or an unknown model raises `ModelError` after at most two requests; the message says what to
    do."""
    with serving(lambda body, number: status) as server, pytest.raises(ModelError, match=message):
        generate(server.url, [request(str(i)) for i in range(50)], key="MY_KEY", concurrency=1)
    assert len(server.asked) <= 2


def test_running_requests_are_answered_before_a_fatal_error() -> None:
    """One of three concurrent requests gets status 401; the answers of the other two are returned before the error is
    raised."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if "Say a" in words(body):
            return 401
        time.sleep(0.3)
        return "yes"

    answers: list[Answer] = []
    with serving(reply) as server:
        engine = Endpoint(server.url, "judge", concurrency=3)
        with pytest.raises(ModelError, match="API key"):
            answers.extend(engine.generate([request(n) for n in "abcdef"], SAMPLING))
    assert sorted(answer.id for answer in answers) == ["b", "c"]
    assert len(server.asked) == 3


def test_server_that_stops_answering_raises_silent_error() -> None:
    """After 30 answers the server returns 503.

    The error is raised after 20 failed requests in a row, not after all 1000.
    """
    with serving(lambda body, number: "yes" if number < 30 else 503) as server:
        answers: list[Answer] = []
        engine = Endpoint(server.url, "judge", attempts=2, first_wait_s=0.001)
        with pytest.raises(SilentError, match="20 requests in a row"):
            answers.extend(engine.generate((request(str(i)) for i in range(1000)), SAMPLING))
    assert sum(isinstance(answer, Completion) for answer in answers) == 30
    assert len(server.asked) < 30 + 2 * 40


def test_rejected_requests_do_not_raise_silent_error() -> None:
    """Thirty requests rejected with status 400 do not count as a silent endpoint. The next request is answered."""
    with serving(lambda body, number: "yes" if number == 30 else 400) as server:
        answers = generate(server.url, [request(str(i)) for i in range(31)], concurrency=1)
    assert isinstance(answers["30"], Completion)
    assert all(isinstance(answers[str(i)], Failed) and answers[str(i)].refused for i in range(30))  # type: ignore[union-attr]


def test_api_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is sent in the Authorization header and does not appear in an error message."""
    monkeypatch.setenv("MY_KEY", "secret-1")
    with serving(lambda body, number: "yes") as server:
        generate(server.url, [request("a")], key="MY_KEY")
    assert server.headers[0]["Authorization"] == "Bearer secret-1"
    with serving(lambda body, number: 403) as server, pytest.raises(ModelError) as excinfo:
        generate(server.url, [request("a")], key="MY_KEY")
    assert "refused" in str(excinfo.value)
    assert "secret-1" not in str(excinfo.value)


def test_unreachable_server_stops_the_run() -> None:
    """The error is raised after 20 failed requests in a row, before 100 of the 10,000 requests are read."""
    with serving(lambda body, number: "yes") as server:
        url = server.url
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for i in range(10_000):
            read += 1
            yield request(str(i))

    engine = Endpoint(url, "judge", attempts=2, first_wait_s=0.001)
    with pytest.raises(ModelError, match="20 requests in a row without an answer"):
        list(engine.generate(requests(), SAMPLING))
    assert read < 100


def test_missing_image_fails_one_request(tmp_path: Path) -> None:
    """A request whose image file does not exist fails with `image_missing`; the other request is answered."""
    with serving(lambda body, number: "yes") as server:
        answers = generate(server.url, [request("a", tmp_path / "none.png"), request("b")])
    assert isinstance(answers["a"], Failed)
    assert "image_missing" in answers["a"].reason
    assert isinstance(answers["b"], Completion)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("localhost:8000", {}, "no address"),
        ("http://me:word@localhost/v1", {}, "password"),
        ("http://localhost/v1", {"concurrency": 0}, "at least 1"),
        ("http://localhost/v1", {"timeout_s": 0}, "above 0"),
    ],
)
def test_invalid_endpoint_arguments_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    """The constructor refuses an invalid address, an address with a password, and numbers out of range."""
    with pytest.raises(ModelError, match=message):
        Endpoint(url, "judge", **options)


def test_missing_vllm_error_names_the_extra() -> None:
    """Without vLLM installed, the error names the pip extra that installs it."""
    with pytest.raises(ModelError, match=r"basereward\[vllm\]"):
        open_engine("model", endpoint="vllm")
