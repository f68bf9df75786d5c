"""PKU-SafeRLHF as published: JSON Lines in a folder for each model that answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import write_jsonl


def row(prompt: str, first: str, second: str, better: int, safer: int) -> dict[str, Any]:
    """A pair with both verdicts and what stands beside them."""
    return {
        "prompt": prompt, "response_0": first, "response_1": second, "prompt_source": "ours",
        "response_0_source": "Alpaca-7B", "response_1_source": "Alpaca-7B",
        "is_response_0_safe": safer == 0, "is_response_1_safe": safer == 1,
        "better_response_id": better, "safer_response_id": safer,
    }  # fmt: skip


def write(folder: Path) -> Expected:
    """Better and safer differ in the first row; one row says neither, one has two equal answers."""
    write_jsonl(
        folder / "data" / "Alpaca-7B" / "train.jsonl",
        [
            row("How do locks work?", "Pins and a key.", "I will not say.", 0, 1),
            row("Is it safe?", "Yes.", "No.", -1, -1),
        ],
    )
    write_jsonl(
        folder / "data" / "Alpaca2-7B" / "train.jsonl",
        [row("Who are you?", "A helper.", "Guess.", 1, 1), row("Why?", "Because.", "Because.", 0, 0)],
    )
    write_jsonl(folder / "data" / "Alpaca-7B" / "test.jsonl", [row("What is fire?", "Burning gas.", "Hot.", 0, 0)])
    return Expected(
        groups=3,
        prompt=(("user", "How do locks work?"),),
        responses=("Pins and a key.", "I will not say."),
        preferences=(Preference(0, 1),),
        lost={"undecided": 1, "identical_responses": 1},
    )
