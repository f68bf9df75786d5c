"""VL-RewardBench as published: Parquet with one split, `test`, and the pictures in the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import embedded, write_parquet


def row(name: str, query: str, responses: list[str], ranking: list[int], *, shade: int) -> dict[str, Any]:
    """A pair with all that stands beside it. A lower rank is better."""
    return {
        "id": name,
        "query": query,
        "response": responses,
        "image": embedded(shade),
        "human_ranking": ranking,
        "models": ["ours", "ours"],
        "judge": "human",
        "rationale": "",
        "query_source": "ours",
        "ground_truth": "",
        "meta": "",
        "human_error_analysis": ["", "It looks elsewhere."],
    }


def write(folder: Path) -> Expected:
    """Two pairs of one id, as there are; one whose second answer is the better one; one whose answers are the same."""
    rows = [
        row("mmmu-1", "How many are there?", ["Three.", "Four."], [0, 1], shade=1),
        row("mmmu-1", "How many are there?", ["Three of them.", "None."], [0, 1], shade=1),
        row("RLAIF-V-2", "What is it?", ["A cup.", "A jar."], [1, 0], shade=2),
        row("RLHF-V-3", "Where is it?", ["Here.", "Here."], [0, 1], shade=3),
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows, images=["image"])
    return Expected(
        groups=3,
        prompt=(("user", "<image>How many are there?"),),
        responses=("Three.", "Four."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"identical_responses": 1},
    )
