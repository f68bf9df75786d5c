"""Pairs of complete conversations, with and without a prompt column."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.conversations import Conversations
from basereward.data.schema.group import Group
from basereward.data.schema.rows import RowFormat


def said(*texts: str) -> list[dict[str, str]]:
    """Return messages with alternating roles, the last one an answer."""
    roles = ["assistant" if (len(texts) - i) % 2 else "user" for i in range(len(texts))]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def read(row: dict[str, Any]) -> Group:
    """Return the group of a row."""
    return RowFormat().group(Conversations()(row), source="s", row_id="0", where="here")


LONG = {"chosen": said("A?", "B.", "C?", "good"), "rejected": said("A?", "B.", "C?", "bad")}


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param({}, id="no column"),
        pytest.param({"prompt": None}, id="null"),
        pytest.param({"prompt": "A?"}, id="the first turn"),
        pytest.param({"prompt": "C?"}, id="the last turn"),
    ],
)
def test_the_turns_before_the_answers_are_the_prompt(prompt: dict[str, Any]) -> None:
    """The column `prompt`, which repeats some of them, is not used."""
    group = read(LONG | prompt)
    assert [(turn.role, turn.parts[0].text) for turn in group.prompt] == [
        ("user", "A?"),
        ("assistant", "B."),
        ("user", "C?"),
    ]
    assert group.responses == ("good", "bad")


def test_lists_of_the_answers_alone_have_their_prompt_beside_them() -> None:
    """If the lists contain only the answers, `prompt` is read."""
    group = read({"prompt": "A?", "chosen": said("good"), "rejected": said("bad")})
    assert [part.text for turn in group.prompt for part in turn.parts] == ["A?"]
    assert group.responses == ("good", "bad")


def test_ids_are_kept_and_ratings_are_not_read() -> None:
    """A rating that contradicts the preference has no effect."""
    group = read(LONG | {"id": "x7", "chosen_rating": 1.0, "rejected_rating": 5.0, "margin": "none"})
    assert group.id == "x7"
    assert [(one.winner, one.loser, one.margin) for one in group.preferences] == [(0, 1, None)]
