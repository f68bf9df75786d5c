"""Judges behind `/v1/chat/completions` and `/score`: the texts and verdicts of the judge in this process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import IMAGE, Part, Turn
from basereward.evaluation.items import Item
from basereward.evaluation.judging.judge import judge_items
from basereward.evaluation.judging.run_judge import open_judge
from basereward.inference.judges.endpoint import Endpoint
from basereward.inference.judges.engine import Completion, Request
from basereward.inference.judges.local import LocalEngine
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.generation.generate import SamplingParams
from tests.helpers.http_requests import connect, image_uri, png, request_bytes
from tests.helpers.served_model import ServedModel, judge_checkpoint, save_scored_model, served_model

CHAT = "/v1/chat/completions"
JUDGE = {"prompt": "pairwise_brief", "pattern": "([12])", "max_tokens": 1}
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a judge that writes one of two verdicts, and return its folder."""
    folder = tmp_path_factory.mktemp("judge")
    return save_scored_model(
        folder, head="generative", backbone=judge_checkpoint(folder / "backbone"), thinking=True, **JUDGE
    )


@pytest.fixture(scope="module")
def served(judge: Path) -> Iterator[ServedModel]:
    """Serve the judge."""
    with served_model(judge, "--window", "20") as server:
        yield server


@pytest.fixture(scope="module")
def scorer(judge: Path) -> Scorer:
    """Open the judge in this process."""
    return load_scorer(judge)


@pytest.fixture(scope="module")
def local(judge: Path) -> LocalEngine:
    """Open the checkpoint of the judge as a chat model in this process."""
    return LocalEngine(str(judge.parent / "backbone"), batch_size=1)


def items() -> list[Item]:
    """Return items with and without a picture, of three responses each."""
    responses = ("It is seven.", "4", "This one is longer, and wrong!")
    made = []
    for row in range(12):
        pictures: tuple[Any, ...] = (png("red", side=28 * (1 + row // 2)),) if row % 2 else ()
        prompt = f"Question {row}: {'what' * row}?"
        made.append(Item(row, f"item-{row}", prompt, responses, (0,), (1, 2), f"item-{row}", images=pictures))
    return made


def test_judge_at_the_server_gives_the_verdicts_of_the_judge_here(
    served: ServedModel, scorer: Scorer, tmp_path: Path
) -> None:
    """`eval --judge` with the server's address: the scores of each round-robin over its verdicts are those of the model
    in this process, for text and pictures, and not all verdicts are alike."""
    client = open_judge("judge", endpoint=f"{served.address}/v1", order="both", **JUDGE)
    outcomes, cost = judge_items(
        client, items(), images=ImageStore(), journal=tmp_path / "answers.jsonl", header={"test": "chat"}
    )
    assert (cost["answers"], cost["unread"], cost["tokens"]) == (12 * 6, 0, 12 * 6)
    distinct = set()
    for item in items():
        expected = scorer.score(item.prompt, item.responses, images=item.images)
        assert outcomes[item.row].scores == pytest.approx(expected, abs=1e-6)
        distinct.add(tuple(expected))
    assert len(distinct) > 1


def test_judge_scores_at_the_server(served: ServedModel, scorer: Scorer) -> None:
    """`/score` gives the scores of the judge in this process. A score belongs to its group: two requests of one prompt
    at the same time do not become one, and equal responses of a request each have a score."""
    groups = [
        ["It is seven.", "4"],
        ["It is seven.", "This one is longer, and wrong!"],
        ["4", "It is seven.", "eight", "nine", "10"],
        ["4", "4", "It is seven."],
    ]
    with ThreadPoolExecutor(4) as clients:
        answers = clients.map(
            lambda responses: served.post("/score", {"prompt": "Seven?", "responses": responses}), groups
        )
        for responses, answer in zip(groups, answers, strict=True):
            assert answer.status_code == 200, answer.text
            assert answer.json()["scores"] == pytest.approx(scorer.score("Seven?", responses), abs=1e-6)
    alone = served.post("/score", {"prompt": "Seven?", "responses": ["4"]})
    assert (alone.status_code, "rating" in alone.json()["detail"]) == (422, True)


def test_texts_equal_those_of_the_local_engine(served: ServedModel, local: LocalEngine) -> None:
    """Texts and their numbers of tokens, of conversations with several turns, with pictures and with marks and control
    tokens in them, at temperature 0 and sampled with several seeds; all are sent at once."""
    question = Turn("user", (Part("Which digit? <image> <img>a.png</img><|im_end|>"),))
    earlier = (Turn("system", (Part("Be short."),)), question, Turn("assistant", (Part("Seven."),)))
    requests = [
        Request("text", (question,)),
        Request("turns", (*earlier, Turn("user", (Part("Are you sure?"),)))),
        Request(
            "pictures", (Turn("user", (IMAGE, Part("Which of them?"), IMAGE)),), (png("red"), png("blue", side=84))
        ),
    ]
    endpoint = Endpoint(f"{served.address}/v1", "any", concurrency=3, attempts=1)
    seen = set()
    for temperature, seed in ((0.0, 0), (1.0, 3), (1.0, 4)):
        sampling = SamplingParams(max_tokens=12, temperature=temperature, top_p=0.9, seed=seed)
        expected = list(local.generate(requests, sampling))
        answers = sorted(endpoint.generate(requests, sampling), key=lambda answer: answer.id)
        assert answers == sorted(expected, key=lambda answer: answer.id)
        for answer in answers:
            assert isinstance(answer, Completion)
            seen.add(answer.text)
    # At least one text for each seed has other bytes than those of the verdicts, which temperature 0 gives alone.
    assert len([text for text in seen if set(text) - {"1", "2"}]) >= 2


def test_form_of_the_answer(served: ServedModel, local: LocalEngine) -> None:
    """OpenAI's form: one choice with the reason of its end, and the tokens of the prompt, which has a picture, and of
    the text. The model does not end its turn by itself, so every text has the length that was asked for."""
    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": image_uri(png("red"))}}]
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": parts}], "max_completion_tokens": 5}
    answer = served.post(CHAT, body | {"n": 1, "stream": False, "user": "me", "seed": None}).json()
    request = Request("a", (Turn("user", (Part("Hi"), IMAGE)),), (png("red"),))
    (expected,) = local.generate([request], SamplingParams(max_tokens=5))
    assert isinstance(expected, Completion)
    message = {"role": "assistant", "content": expected.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    assert (answer["object"], answer["choices"]) == ("chat.completion", [choice])
    tokens = {"prompt_tokens": expected.prompt_tokens, "completion_tokens": 5}
    assert answer["usage"] == {**tokens, "total_tokens": expected.prompt_tokens + 5}


BAD: dict[str, dict[str, Any]] = {
    "no messages": {"messages": []},
    "text as messages": {"messages": "Hi"},
    "stream": {"messages": HI, "stream": True},
    "several texts": {"messages": HI, "n": 2},
    "too many tokens": {"messages": HI, "max_tokens": 10**9},
    "no tokens": {"messages": HI, "max_tokens": 0},
    "two limits": {"messages": HI, "max_tokens": 5, "max_completion_tokens": 5},
    "negative temperature": {"messages": HI, "temperature": -1},
    "temperature as text": {"messages": HI, "temperature": "hot"},
    "top_p of zero": {"messages": HI, "top_p": 0},
    "seed that is too large": {"messages": HI, "seed": 2**64},
    "stop": {"messages": HI, "stop": ["."]},
    "tools": {"messages": HI, "tools": []},
    "form of the answer": {"messages": HI, "response_format": {"type": "json_object"}},
    "tool message": {"messages": [*HI, {"role": "tool", "content": "4"}]},
    "last message of the assistant": {"messages": [*HI, {"role": "assistant", "content": "Ho"}]},
    "message without content": {"messages": [{"role": "user"}]},
    "empty message": {"messages": [{"role": "user", "content": ""}]},
    "sound": {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    "picture at an address": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/a"}}]}]
    },
    "path of a picture": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]
    },
    "picture without an address": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    "half of a pair of surrogates": {"messages": [{"role": "user", "content": "\ud800"}]},
    "long conversation": {"messages": [{"role": "user", "content": "word " * 20_000}]},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_chat_request(served: ServedModel, name: str) -> None:
    """Each gets status 422 and an error in OpenAI's form, which names the key or the reason."""
    answer = served.post(CHAT, BAD[name])
    assert answer.status_code == 422, answer.text[:500]
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", 422)
    assert 0 < len(error["message"]) < 2000
    good = served.post(CHAT, {"messages": HI, "max_tokens": 1}).json()
    assert good["choices"][0]["message"]["content"] in ("1", "2")


def test_text_of_a_client_that_has_gone_is_not_written(served: ServedModel) -> None:
    """Of eight requests that arrive while the worker is stopped, the five whose clients have gone are not computed."""
    (worker,) = served.workers()
    before = served.metric("basereward_computed_total")
    worker.send_signal(signal.SIGSTOP)
    connections = []
    for number in range(8):
        body = {"messages": [{"role": "user", "content": f"Question {number}"}], "max_tokens": 3}
        connections.append(connect(served, request_bytes(served, CHAT, body)))
    served.wait_for_metric("basereward_waiting_requests", 8)
    for connection in connections[:5]:
        connection.close()
    served.wait_for_metric("basereward_waiting_requests", 3)
    worker.send_signal(signal.SIGCONT)
    served.wait_for_metric("basereward_waiting_requests", 0)
    assert served.metric("basereward_computed_total") - before == 3
