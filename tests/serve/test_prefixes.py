"""Kept prompts: which ones are kept, and the memory that they count."""

from __future__ import annotations

import pytest

from basereward.inference.scorer import Scorer, load_scorer
from basereward.serve.prefixes import KeptPrefixes
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import group


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Open a small model with random weights."""
    return load_scorer(save_scored_model(tmp_path_factory.mktemp("kept"), head="mlp"))


def size_of(scorer: Scorer, text: str) -> int:
    """Return the bytes of a prompt's keys and values."""
    return scorer.prompt(text).nbytes


def test_prompt_is_kept_when_it_comes_again(scorer: Scorer) -> None:
    """The first time it is only remembered, the second time it should be kept, and then it is found."""
    kept = KeptPrefixes(scorer, max_bytes=2**30)
    assert [kept.find("a"), kept.find("a"), kept.find("b")] == [(None, False), (None, True), (None, False)]
    prompt = kept.add("a", scorer.encode(group("2 + 2?", ("4",))))
    assert kept.find("a") == (prompt, False)
    assert KeptPrefixes(scorer, max_bytes=0).find("a") == (None, False)


def test_bytes_are_those_of_the_kept_prompts(scorer: Scorer) -> None:
    """A prompt that is added twice counts once; the least recently used one goes when there is no room."""
    texts = ["2 + 2?", "3 + 3?", "4 + 4?"]
    size = size_of(scorer, texts[0])
    kept = KeptPrefixes(scorer, max_bytes=2 * size)
    for text in (texts[0], texts[0], texts[1]):
        kept.add(text, scorer.encode(group(text, ("4",))))
    assert kept.bytes == 2 * size
    kept.find(texts[0])
    kept.add(texts[2], scorer.encode(group(texts[2], ("4",))))
    assert kept.bytes == 2 * size
    assert [kept.find(text)[0] is not None for text in texts] == [True, False, True]
