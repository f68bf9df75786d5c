"""An endpoint that serves well, and the ways in which one does not."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
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

HOW = SamplingParams(max_tokens=9, temperature=0.5, seed=3)


def request(name: str, *images: Image) -> Request:
    """A question with pictures before it."""
    return Request(name, (Turn("user", (*[IMAGE] * len(images), Part(f"Say {name}."))),), images)


def asked(url: str, requests: list[Request], **options: Any) -> dict[str, Answer]:
    """The answers by their requests."""
    engine = Endpoint(url, "judge", **{"first_wait_s": 0.01, "timeout_s": 1.0, **options})
    return {answer.id: answer for answer in engine.generate(requests, HOW)}


def test_what_a_model_wants_besides_is_sent() -> None:
    """A key more, one in place of another, and one that is left out."""
    extra = read_extra('{"reasoning_effort": "low", "max_completion_tokens": 5, "max_tokens": null, "temperature": 1}')
    with serving(lambda body, number: "yes") as server:
        asked(server.url, [request("a")], extra=extra)
    (body,) = server.asked
    assert "max_tokens" not in body
    expected = {"reasoning_effort": "low", "max_completion_tokens": 5, "temperature": 1, "model": "judge", "seed": 3}
    assert {key: body[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is not JSON"), ("[1]", "an object is needed"), ('{"stream": true}', "without the keys")]
)
def test_what_cannot_be_sent_is_told(text: str, said: str) -> None:
    """Before anything is; and on this machine nothing is sent."""
    with pytest.raises(ModelError, match=said):
        open_engine("judge", endpoint="http://localhost/v1", send=text)
    with pytest.raises(ModelError, match="leave it out"):
        open_engine("judge", endpoint="local", send="{}")


def test_every_request_is_answered_once() -> None:
    """With what was asked for, never more under way at once than allowed, and the tokens that the server counts."""
    names = [str(i) for i in range(20)]
    with serving(lambda body, number: words(body), delay_s=0.02) as server:
        found = asked(server.url, [request(name) for name in names], concurrency=3)
    assert found == {name: Completion(name, f"Say {name}.", 7, 3) for name in names}
    assert len(server.asked) == 20
    assert 2 <= server.most_at_once <= 3
    sent = {key: server.asked[0][key] for key in ("model", "max_tokens", "temperature", "seed")}
    assert sent == {"model": "judge", "max_tokens": 9, "temperature": 0.5, "seed": 3}


def test_requests_are_read_as_they_are_sent() -> None:
    """A source of millions is never held in memory."""
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for i in range(1000):
            read += 1
            yield request(str(i))

    with serving(lambda body, number: "yes") as server:
        answers = Endpoint(server.url, "judge", concurrency=4).generate(requests(), HOW)
        for _ in range(3):
            next(answers)
        assert read <= 3 + 2 * 4
        answers.close()  # type: ignore[attr-defined]


def test_pictures_go_in_their_places(tmp_path: Path) -> None:
    """A file of a common format as it is, another as PNG; both come out as the same pixels."""
    jpeg, bitmap = tmp_path / "a.jpg", tmp_path / "b.bmp"
    picture(0).save(jpeg)
    picture(1).save(bitmap)
    with serving(lambda body, number: "yes") as server:
        asked(server.url, [request("x", jpeg, bitmap, picture(2))])
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
def test_what_passes_is_tried_again(fault: Any) -> None:
    """The first attempt of every request fails; all are answered, by two attempts each."""
    seen: set[str] = set()

    def reply(body: dict[str, Any], number: int) -> Any:
        new = words(body) not in seen
        seen.add(words(body))
        return fault if new else "yes"

    with serving(reply) as server:
        found = asked(server.url, [request(name) for name in "abc"])
    assert all(isinstance(answer, Completion) and answer.text == "yes" for answer in found.values())
    assert len(server.asked) == 6


def test_attempts_end() -> None:
    """What does not pass fails with the last reason, and the others are answered."""
    with serving(lambda body, number: 500 if "b" in words(body) else "yes") as server:
        found = asked(server.url, [request(name) for name in "abc"], attempts=3)
    assert isinstance(found["a"], Completion)
    failed = found["b"]
    assert isinstance(failed, Failed)
    assert failed.attempts == 3
    assert "500" in failed.reason
    assert len(server.asked) == 5


def test_a_request_that_is_refused_fails_alone() -> None:
    """At its first attempt."""
    with serving(lambda body, number: 400 if "b" in words(body) else "yes") as server:
        found = asked(server.url, [request(name) for name in "abc"])
    assert isinstance(found["b"], Failed)
    assert found["b"].attempts == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize(("status", "said"), [(401, "API key in the environment variable MY_KEY"), (404, "no model")])
def test_what_no_request_can_do_stops_all(status: int, said: str) -> None:
    """With what to mend."""
    with serving(lambda body, number: status) as server, pytest.raises(ModelError, match=said):
        asked(server.url, [request(str(i)) for i in range(50)], key="MY_KEY", concurrency=1)
    assert len(server.asked) <= 2


def test_what_is_under_way_is_not_lost_when_all_is_stopped() -> None:
    """Of three requests at once one is refused with 401 while two are being written: these two are given first."""

    def reply(body: dict[str, Any], number: int) -> Any:
        if "Say a" in words(body):
            return 401
        time.sleep(0.3)
        return "yes"

    found: list[Answer] = []
    with serving(reply) as server:
        engine = Endpoint(server.url, "judge", concurrency=3)
        with pytest.raises(ModelError, match="API key"):
            found.extend(engine.generate([request(n) for n in "abcdef"], HOW))
    assert sorted(answer.id for answer in found) == ["b", "c"]
    assert len(server.asked) == 3


def test_a_server_that_goes_away_is_told_soon() -> None:
    """After thirty answers, and not after every one of a thousand requests was tried five times."""
    with serving(lambda body, number: "yes" if number < 30 else 503) as server:
        found: list[Answer] = []
        engine = Endpoint(server.url, "judge", attempts=2, first_wait_s=0.001)
        with pytest.raises(SilentError, match="20 requests in a row"):
            found.extend(engine.generate((request(str(i)) for i in range(1000)), HOW))
    assert sum(isinstance(answer, Completion) for answer in found) == 30
    assert len(server.asked) < 30 + 2 * 40


def test_what_the_endpoint_refuses_does_not_make_it_silent() -> None:
    """Thirty requests that it will not take are told one by one; the last is answered."""
    with serving(lambda body, number: "yes" if number == 30 else 400) as server:
        found = asked(server.url, [request(str(i)) for i in range(31)], concurrency=1)
    assert isinstance(found["30"], Completion)
    assert all(isinstance(found[str(i)], Failed) and found[str(i)].refused for i in range(30))  # type: ignore[union-attr]


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is in no error."""
    monkeypatch.setenv("MY_KEY", "secret-1")
    with serving(lambda body, number: "yes") as server:
        asked(server.url, [request("a")], key="MY_KEY")
    assert server.headers[0]["Authorization"] == "Bearer secret-1"
    with serving(lambda body, number: 403) as server, pytest.raises(ModelError) as told:
        asked(server.url, [request("a")], key="MY_KEY")
    assert "refused" in str(told.value)
    assert "secret-1" not in str(told.value)


def test_a_server_that_is_not_there_is_told_soon() -> None:
    """Not after every one of ten thousand requests has been tried."""
    with serving(lambda body, number: "yes") as server:
        gone = server.url
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for i in range(10_000):
            read += 1
            yield request(str(i))

    engine = Endpoint(gone, "judge", attempts=2, first_wait_s=0.001)
    with pytest.raises(ModelError, match="20 requests in a row without an answer"):
        list(engine.generate(requests(), HOW))
    assert read < 100


def test_a_picture_that_cannot_be_opened_fails_alone(tmp_path: Path) -> None:
    """Without being sent."""
    with serving(lambda body, number: "yes") as server:
        found = asked(server.url, [request("a", tmp_path / "none.png"), request("b")])
    assert isinstance(found["a"], Failed)
    assert "image_missing" in found["a"].reason
    assert isinstance(found["b"], Completion)


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("localhost:8000", {}, "no address"),
        ("http://me:word@localhost/v1", {}, "password"),
        ("http://localhost/v1", {"concurrency": 0}, "at least 1"),
        ("http://localhost/v1", {"timeout_s": 0}, "above 0"),
    ],
)
def test_arguments_are_checked(url: str, options: dict[str, Any], said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ModelError, match=said):
        Endpoint(url, "judge", **options)


def test_vllm_is_an_extra() -> None:
    """The error says how to get it."""
    with pytest.raises(ModelError, match=r"basereward\[vllm\]"):
        open_engine("model", endpoint="vllm")
