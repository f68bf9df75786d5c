"""swe-arena as its copies show it: Parquet with a state for each model, and a vote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import write_parquet


def state(model: str, *texts: str) -> dict[str, Any]:
    """A conversation, the user's turn first."""
    speakers = ("User", "Assistant")
    return {
        "chat_mode": "battle_anony", "chat_session_id": "s", "conv_id": "c", "model_name": model, "offset": 0,
        "messages": [[speakers[i % 2], text] for i, text in enumerate(texts)],
        "roles": list(speakers),
        "sandbox_logs_by_round": {"1": {"enabled_round": 1, "filename": "1.json"}},
    }  # fmt: skip


def row(vote: str | None, first: tuple[str, ...], second: tuple[str, ...]) -> dict[str, Any]:
    """Two conversations and a vote between them."""
    aspects = ("correctness", "efficiency", "explainability", "maintainability", "ui_ux_design")
    return {
        "type": "code", "feedback": dict.fromkeys(aspects, "vote_tie") | {"vote_type": vote},
        "models": {"model_A": "a", "model_B": "b"}, "chat_session_id": "s", "instruction": first[0],
        "states": {"model_A": state("a", *first), "model_B": state("b", *second)},
    }  # fmt: skip


def write(folder: Path) -> Expected:
    """Votes for either side, two that decide nothing, one missing; a talk of two rounds, and one without its answer."""
    ask = "Draw a square."
    write_parquet(
        folder / "data" / "train-00000-of-00001.parquet",
        [
            row("vote_right", (ask, "circle()"), (ask, "square()")),
            row("vote_left", ("Sort it.", "sorted(x)"), ("Sort it.", "x")),
            row("vote_tie", (ask, "one()"), (ask, "two()")),
            row("vote_both_bad", (ask, "one()"), (ask, "two()")),
            row(None, (ask, "one()"), (ask, "two()")),
            row("vote_left", (ask, "one()", "Red.", "red()"), (ask, "two()", "Red.", "blue()")),
            row("vote_left", (ask, "one()"), (ask,)),
        ],
    )
    return Expected(
        groups=2,
        prompt=(("user", ask),),
        responses=("square()", "circle()"),
        preferences=(Preference(0, 1),),
        lost={"undecided": 2, "not_rated": 1, "several_rounds": 1, "bad_states": 1},
    )
