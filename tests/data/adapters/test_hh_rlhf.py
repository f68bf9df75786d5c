"""hh-rlhf: transcripts become turns, and two transcripts are a pair if only the last answers differ."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.hh_rlhf import HhRlhf
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat


def talk(*said: str) -> str:
    """Return a transcript that begins with the human."""
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {text}" for i, text in enumerate(said))


def read(chosen: Any, rejected: Any) -> Group:
    """Return the group of two transcripts."""
    row = HhRlhf()({"chosen": chosen, "rejected": rejected})
    return RowFormat().group(row, source="s", row_id="0", where="here")


def test_turns_before_the_last_answer_are_the_prompt() -> None:
    """Line breaks inside of a turn are kept, those around it are removed; other words with a colon are text."""
    text = "One:\n\nHumans are: many"
    group = read(talk("Hi", text, "And?", "Yes.\n"), talk("Hi", text, "And?", "No."))
    assert [(turn.role, turn.parts[0].text) for turn in group.prompt] == [
        ("user", "Hi"),
        ("assistant", text),
        ("user", "And?"),
    ]
    assert group.responses == ("Yes.", "No.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "turn"),
    [
        pytest.param(talk("Q", "A", "R", "a"), talk("Q", "B", "R", "b"), 1, id="another answer before"),
        pytest.param(talk("Q", "A", "R", "a"), talk("Q", "A", "S", "b"), 2, id="another question"),
        pytest.param(talk("Q", "A", "R", "a"), talk("Q", "b"), 1, id="one is longer"),
        pytest.param(talk("Q", "A", "R", "a"), talk("Q", "A"), 2, id="one begins the other"),
    ],
)
def test_talks_that_part_earlier_are_lost(chosen: str, rejected: str, turn: int) -> None:
    """The answers have different prompts; the message has the turn at which they differ."""
    with pytest.raises(RowRejected, match=f"differ after turn {turn}, ") as lost:
        read(chosen, rejected)
    assert lost.value.reason == "prompts_differ"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        pytest.param(None, "null_response", id="null"),
        pytest.param("Hello", "bad_transcript", id="no speaker"),
        pytest.param(["a"], "bad_transcript", id="a list"),
        pytest.param("Well: " + talk("Q", "A"), "bad_transcript", id="text before the first speaker"),
    ],
)
def test_what_is_no_transcript_is_lost(chosen: Any, reason: str) -> None:
    """Under its own reason."""
    with pytest.raises(RowRejected) as lost:
        read(chosen, talk("Q", "A"))
    assert lost.value.reason == reason


def test_a_talk_that_ends_with_the_human_has_no_answer() -> None:
    """The row is rejected; the question does not become the answer."""
    with pytest.raises(RowRejected, match="ends with a turn of the user") as lost:
        read(talk("Q", "A", "R"), talk("Q", "A", "S"))
    assert lost.value.reason == "bad_turns"
