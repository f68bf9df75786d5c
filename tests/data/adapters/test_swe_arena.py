"""swe-arena: votes, and the conversations that they compare."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.swe_arena import SweArena
from basereward.data.schema.rejections import RowRejected


def row(vote: Any, first: tuple[str, ...] = ("Q", "a"), second: tuple[str, ...] = ("Q", "b")) -> dict[str, Any]:
    """Return a vote on two conversations."""

    def state(texts: tuple[str, ...]) -> dict[str, Any]:
        return {"messages": [["Assistant" if i % 2 else "User", text] for i, text in enumerate(texts)]}

    states = {"model_A": state(first), "model_B": state(second)}
    return {"instruction": "asked", "states": states, "feedback": {"vote_type": vote}}


@pytest.mark.parametrize(
    ("vote", "chosen", "rejected"),
    [("vote_left", "a", "b"), ("vote_model_A", "a", "b"), ("vote_right", "b", "a"), ("vote_model_B", "b", "a")],
)
def test_left_vote_prefers_model_a(vote: str, chosen: str, rejected: str) -> None:
    """For both spellings of the votes."""
    assert SweArena()(row(vote)) == {"prompt": "Q", "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("vote", "reason"),
    [("vote_tie", "undecided"), ("vote_both_bad", "undecided"), (None, "not_rated"), ("left", "not_rated")],
)
def test_other_votes_reject_the_row(vote: Any, reason: str) -> None:
    """A tie is undecided; an unknown vote is not rated."""
    with pytest.raises(RowRejected) as caught:
        SweArena()(row(vote))
    assert caught.value.reason == reason


def test_longer_conversations_need_rounds_last() -> None:
    """With `rounds=last`, the last answers belong to `instruction`; otherwise the models have different prompts."""
    long_row = row("vote_right", ("Q", "a", "R", "c"), ("Q", "b", "R", "d"))
    with pytest.raises(RowRejected) as caught:
        SweArena()(long_row)
    assert caught.value.reason == "several_rounds"
    assert SweArena(rounds="last")(long_row) == {"prompt": "asked", "chosen": "d", "rejected": "c"}


def test_different_questions_reject_the_row() -> None:
    """Both models must have the same question."""
    with pytest.raises(RowRejected) as caught:
        SweArena()(row("vote_left", ("Q", "a"), ("R", "b")))
    assert caught.value.reason == "prompts_differ"


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "Q",
        [["User", "Q"]],
        [["User", "Q"], ["Assistant", None]],
        [["User"], ["Assistant"]],
        [{"a": 1}, {"b": 2}],
    ],
    ids=["null", "empty", "a text", "no answer", "a null answer", "no texts", "objects"],
)
def test_broken_states_reject_the_row(messages: Any) -> None:
    """The message names the model; a row without any states is rejected, too."""
    broken = row("vote_left")
    broken["states"]["model_B"]["messages"] = messages
    with pytest.raises(RowRejected, match=r"states\.model_B\.messages") as caught:
        SweArena()(broken)
    assert caught.value.reason == "bad_states"
    for states in (None, {}, {"model_A": None, "model_B": None}):
        with pytest.raises(RowRejected, match=r"states\.model_A\.messages"):
            SweArena()(row("vote_left") | {"states": states})
