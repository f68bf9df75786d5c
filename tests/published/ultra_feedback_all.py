"""UltraFeedback as published: JSON Lines by origin, four rated completions a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import write_jsonl

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
GROUPS = 3
LOST = {"equal_ratings": 1, "not_rated": 1, "identical_responses": 1}


def completion(response: str, score: float | None) -> dict[str, Any]:
    """One completion with all that stands beside its score."""
    return {
        "model": "ours",
        "principle": "honesty",
        "custom_system_prompt": "Say what you know.",
        "response": response,
        "annotations": {aspect: {"Rating": "N/A", "Rationale": "None given."} for aspect in ASPECTS},
        "overall_score": score,
        "fine-grained_score": 3.25,
        "critique": "It could be shorter.",
    }


def row(instruction: str, *completions: tuple[str, float | None]) -> dict[str, Any]:
    """One prompt."""
    return {
        "source": "flan",
        "instruction": instruction,
        "models": ["ours"] * len(completions),
        "completions": [completion(*one) for one in completions],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def write_rows(folder: Path) -> None:
    """Two files: three rows that can be used, and one of each kind that cannot."""
    write_jsonl(
        folder / "flan.jsonl",
        [
            row("Name a river.", ("The Elbe.", 7.5), ("A river.", 2.0), ("The Oder.", 7.5), ("Blue.", 1.0)),
            row("Name a tree.", ("Oak.", 6.0), ("Elm.", 6.0), ("Ash.", 6.0), ("Fir.", 6.0)),
            row("Name a bird.", ("Wren.", 8.0), ("Stone.", None), ("Swift.", 5.5), ("Rook.", None)),
        ],
    )
    write_jsonl(
        folder / "sharegpt.jsonl",
        [
            row("Name a metal.", ("Tin.", None), ("Lead.", 4.0), ("Zinc.", None), ("Iron.", None)),
            row("Name a fish.", ("Carp.", 9.0), ("Carp.", 3.0)),
            row("Name a king.", ("Harald.", 3.0), ("Olaf.", 8.5)),
        ],
    )


def write(folder: Path) -> Expected:
    """Every unequal pair of the scores 7.5, 2, 7.5, 1: five of six."""
    write_rows(folder)
    return Expected(
        groups=GROUPS,
        prompt=(("user", "Name a river."),),
        responses=("The Elbe.", "A river.", "The Oder.", "Blue."),
        preferences=(Preference(0, 1), Preference(0, 3), Preference(2, 1), Preference(1, 3), Preference(2, 3)),
        lost=LOST,
    )
