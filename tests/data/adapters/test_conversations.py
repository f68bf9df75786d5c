"""Pairs of complete conversations, with and without a prompt column."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.conversations import Conversations
from basereward.data.schema.group import Group
from basereward.data.schema.rows import RowFormat


def conversation(*texts: str) -> list[dict[str, str]]:
    """Return messages with alternating roles, the last one an answer."""
    roles = ["assistant" if (len(texts) - i) % 2 else "user" for i in range(len(texts))]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def read(row: dict[str, Any]) -> Group:
    """Return the group of a row."""
    return RowFormat().group(Conversations()(row), source="s", row_id="0", where="here")


LONG = {"chosen": conversation("A?", "B.", "C?", "good"), "rejected": conversation("A?", "B.", "C?", "bad")}


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param({}, id="no column"),
        pytest.param({"prompt": None}, id="null"),
        pytest.param({"prompt": "A?"}, id="the first turn"),
        pytest.param({"prompt": "C?"}, id="the last turn"),
    ],
)
def test_turns_before_the_answers_are_the_prompt(prompt: dict[str, Any]) -> None:
    """The column `prompt`, which repeats some of them, is not used."""
    group = read(LONG | prompt)
    assert [(turn.role, turn.parts[0].text) for turn in group.prompt] == [
        ("user", "A?"),
        ("assistant", "B."),
        ("user", "C?"),
    ]
    assert group.responses == ("good", "bad")


def test_prompt_column_is_read_if_lists_have_only_answers() -> None:
    """If the lists contain only the answers, `prompt` is read."""
    group = read({"prompt": "A?", "chosen": conversation("good"), "rejected": conversation("bad")})
    assert [part.text for turn in group.prompt for part in turn.parts] == ["A?"]
    assert group.responses == ("good", "bad")


def test_ids_are_kept_and_ratings_are_not_read() -> None:
    """A rating that contradicts the preference has no effect."""
    group = read(LONG | {"id": "x7", "chosen_rating": 1.0, "rejected_rating": 5.0, "margin": "none"})
    assert group.id == "x7"
    assert [(preference.winner, preference.loser, preference.margin) for preference in group.preferences] == [
        (0, 1, None)
    ]
