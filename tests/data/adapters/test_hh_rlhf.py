"""hh-rlhf: transcripts become turns, and two transcripts are a pair if only the last answers differ."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.hh_rlhf import HhRlhf
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat


def transcript(*texts: str) -> str:
    """Return a transcript that begins with the human."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {text}" for i, text in enumerate(texts))


def read(chosen: Any, rejected: Any) -> Group:
    """Return the group of two transcripts."""
    row = HhRlhf()({"chosen": chosen, "rejected": rejected})
    return RowFormat().group(row, source="s", row_id="0", where="here")


def test_turns_before_the_last_answer_are_the_prompt() -> None:
    """Line breaks inside of a turn are kept, those around it are removed; other words with a colon are text."""
    text = "One:\n\nHumans are: many"
    group = read(transcript("Hi", text, "And?", "Yes.\n"), transcript("Hi", text, "And?", "No."))
    assert [(turn.role, turn.parts[0].text) for turn in group.prompt] == [
        ("user", "Hi"),
        ("assistant", text),
        ("user", "And?"),
    ]
    assert group.responses == ("Yes.", "No.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "turn"),
    [
        pytest.param(transcript("Q", "A", "R", "a"), transcript("Q", "B", "R", "b"), 1, id="another answer before"),
        pytest.param(transcript("Q", "A", "R", "a"), transcript("Q", "A", "S", "b"), 2, id="another question"),
        pytest.param(transcript("Q", "A", "R", "a"), transcript("Q", "b"), 1, id="one is longer"),
        pytest.param(transcript("Q", "A", "R", "a"), transcript("Q", "A"), 2, id="one begins the other"),
    ],
)
def test_different_prompts_reject_the_row(chosen: str, rejected: str, turn: int) -> None:
    """The answers have different prompts; the message has the turn at which they differ."""
    with pytest.raises(RowRejected, match=f"differ after turn {turn}, ") as caught:
        read(chosen, rejected)
    assert caught.value.reason == "prompts_differ"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        pytest.param(None, "null_response", id="null"),
        pytest.param("Hello", "bad_transcript", id="no speaker"),
        pytest.param(["a"], "bad_transcript", id="a list"),
        pytest.param("Well: " + transcript("Q", "A"), "bad_transcript", id="text before the first speaker"),
    ],
)
def test_invalid_transcript_rejects_the_row(chosen: Any, reason: str) -> None:
    """Each form has its own reason."""
    with pytest.raises(RowRejected) as caught:
        read(chosen, transcript("Q", "A"))
    assert caught.value.reason == reason


def test_transcript_without_an_answer_rejects_the_row() -> None:
    """The row is rejected; the question does not become the answer."""
    with pytest.raises(RowRejected, match="ends with a turn of the user") as caught:
        read(transcript("Q", "A", "R"), transcript("Q", "A", "S"))
    assert caught.value.reason == "bad_turns"
