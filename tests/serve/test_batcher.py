"""The batcher: what becomes one group, and what happens to requests that are cancelled while others are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from basereward.data.schema.group import Group
from basereward.errors import DataError, ModelError
from basereward.inference.group_scores import ScoresEncodedGroups
from basereward.inference.judges.chat_model import ChatModel, GeneratedText, trained_chat_model
from basereward.inference.scorer import load_scorer
from basereward.model.generation.generate import SamplingParams
from basereward.serve.batcher import Batcher, ScoreRequest
from basereward.serve.text_writer import TextRequest
from tests.helpers.served_model import judge_checkpoint, save_scored_model
from tests.helpers.support import group


class WordScorer(ScoresEncodedGroups):
    """Scores a response by its number of words, when it is allowed to; it fails for a response `fail`.

    Attributes:
        allowed: waited for before each pass.
        begun: set at each pass.
        encoded_last: set when `the last one` is encoded.
        scored: the responses of all passes.
    """

    def __init__(self) -> None:
        self.allowed = Event()
        self.begun = Event()
        self.encoded_last = Event()
        self.scored: list[str] = []

    def encode(self, group: Group) -> Any:
        """Reject empty responses."""
        if "" in group.responses:
            raise DataError("an empty response")
        if "the last one" in group.responses:
            self.encoded_last.set()
        return group.responses

    def score_encoded(
        self, groups: Iterable[Any], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """Count words."""
        self.begun.set()
        assert self.allowed.wait(60)
        for responses in groups:
            self.scored += responses
            yield [[float(len(response.split())) for response in responses]]


@pytest.fixture
def words() -> WordScorer:
    """Return a scorer that is not allowed to score yet."""
    return WordScorer()


@pytest.fixture
def batcher(words: WordScorer) -> Iterator[Batcher]:
    """Return a batcher of the scorer."""
    batcher = Batcher(words, window_s=0.05)
    yield batcher
    words.allowed.set()
    batcher.close()


def request(prompt: str, *responses: str) -> ScoreRequest:
    """Return a request."""
    return ScoreRequest(prompt, group(prompt, responses))


def test_requests_of_one_prompt_become_one_group(batcher: Batcher, words: WordScorer) -> None:
    """Equal responses are scored once, and every request has the scores of its own, in its order."""
    requests = [request("a", "one", "and two"), request("a", "and two", "one"), request("b", "one")]
    for each in requests:
        batcher.submit(each)
    words.allowed.set()
    assert [each.future.result(60) for each in requests] == [[1, 2], [2, 1], [1]]
    assert sorted(words.scored) == ["and two", "one", "one"]
    assert batcher.computed == 3


def test_requests_are_kept_apart_for_judges(words: WordScorer) -> None:
    """Without merging, a group is scored as it was sent, with equal responses in it."""
    batcher = Batcher(words, window_s=0.05, merge=False)
    requests = [request("a", "one", "one"), request("a", "one", "and two")]
    for each in requests:
        batcher.submit(each)
    words.allowed.set()
    assert [each.future.result(60) for each in requests] == [[1, 1], [1, 2]]
    batcher.close()
    assert words.scored == ["one", "one", "one", "and two"]


def test_bad_request_does_not_fail_another_one_of_its_prompt(batcher: Batcher, words: WordScorer) -> None:
    """Requests of one prompt are encoded apart when they cannot be encoded together."""
    bad, good = request("a", ""), request("a", "one")
    batcher.submit(bad)
    batcher.submit(good)
    words.allowed.set()
    assert good.future.result(60) == [1]
    with pytest.raises(DataError, match="empty"):
        bad.future.result(60)


def test_cancelled_requests_are_not_scored(batcher: Batcher, words: WordScorer) -> None:
    """While the model is busy with one request, others are encoded and wait for it: those that are cancelled then are
    left out. A request that cannot be encoded may be cancelled too; one that has begun cannot."""
    first = request("first", "one")
    batcher.submit(first)
    assert words.begun.wait(60)
    later = [request(f"later {number}", f"answer {number}") for number in range(6)]
    for each in later:
        batcher.submit(each)
    bad = request("bad", "")
    bad.future.cancel()
    batcher.submit(bad)
    last = request("last", "the last one")
    batcher.submit(last)
    assert words.encoded_last.wait(60)
    assert [each.future.cancel() for each in later[:4]] == [True] * 4
    assert not first.future.cancel()
    words.allowed.set()
    assert [each.future.result(60) for each in (first, *later[4:], last)] == [[1], [2], [2], [3]]
    assert words.scored == ["one", "answer 4", "answer 5", "the last one"]


def test_scalar_model_refuses_requests_for_texts(batcher: Batcher) -> None:
    """The request gets the error at once."""
    refused = TextRequest(group("a", ("",)), SamplingParams())
    batcher.submit(refused)
    assert isinstance(refused.future.exception(60), ModelError)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    """Open a judge that writes verdicts."""
    folder = tmp_path_factory.mktemp("texts")
    backbone = judge_checkpoint(folder / "backbone")
    return trained_chat_model(load_scorer(save_scored_model(folder, head="rating", backbone=backbone)))


def test_model_without_generative_head_is_no_chat_model(tmp_path: Path) -> None:
    """Its language-model head is not kept, so the error names the heads that keep it."""
    with pytest.raises(ModelError, match="generative"):
        trained_chat_model(load_scorer(save_scored_model(tmp_path, head="mlp")))


def test_texts_end_early_when_nobody_needs_them(chat: ChatModel, words: WordScorer) -> None:
    """Of three texts that are written together, the one that is given up has padding after its first token, and the
    others are those of the model alone. A cancelled one is not written, one that is too long gets its error, and the
    model stops when no text is needed."""
    batcher = Batcher(words, window_s=0.2, chat=chat)
    sampling = SamplingParams(max_tokens=20)
    texts = [TextRequest(group(f"Question {number}?", ("",)), sampling) for number in range(3)]
    texts[1].abandoned.set()
    cancelled = TextRequest(group("Cancelled?", ("",)), sampling)
    cancelled.future.cancel()
    too_long = TextRequest(group("x" * 100_000, ("",)), sampling)
    for each in (*texts, cancelled, too_long):
        batcher.submit(each)
    written = [each.future.result(60) for each in texts]
    with pytest.raises(DataError, match="too_long"):
        too_long.future.result(60)
    batcher.close()
    alone: list[GeneratedText] = [chat.generate([chat.encode(each.group)], sampling)[0] for each in texts]
    assert [written[0], written[2]] == [alone[0], alone[2]]
    assert alone[1].tokens == 20
    assert written[1].text == alone[1].text[0] + 19 * "<|endoftext|>"
    assert batcher.computed == 3
    (stopped,) = chat.generate([chat.encode(texts[1].group)], sampling, is_cancelled=lambda: [True])
    assert (stopped.text, stopped.tokens) == (alone[1].text[0], 1)
