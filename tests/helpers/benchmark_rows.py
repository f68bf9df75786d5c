"""Benchmarks made by hand, and the real annotations where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.items import Item, JudgedItem, Outcome
from tests.helpers.support import picture

ANY_SIZE = ("expected_items=null", "expected_counts=null")
"""Overrides for made files, which are no part of the published benchmark but all that there is."""


def vl_rewardbench(real_rows: Path) -> Benchmark:
    """The real annotations of VL-RewardBench."""
    return load_benchmark("vl_rewardbench", overrides=[f"data={real_rows}/benchmarks/vl_rewardbench.json"])


def mm_rlhf(real_rows: Path) -> Benchmark:
    """The real annotations of MM-RLHF-RewardBench."""
    path = f"{real_rows}/benchmarks/mm_rlhf_rewardbench.jsonl"
    return load_benchmark("mm_rlhf_rewardbench", overrides=[f"data={path}"])


def item(row: int, *, prompt: str | None = None, right: int = 0, lengths: tuple[int, int] = (4, 4)) -> Item:
    """A pair; answers are of as many letters as told."""
    return Item(
        row=row,
        id=f"item-{row}",
        prompt="?",
        responses=tuple("ab"[index] * length for index, length in enumerate(lengths)),
        right=(right,),
        wrong=(1 - right,),
        prompt_id=prompt or f"item-{row}",
    )


def with_correct(items: Sequence[Item], right: Sequence[bool]) -> list[JudgedItem]:
    """Items with 0/1 outcomes."""
    return [JudgedItem(each, Outcome(correct=bool(value))) for each, value in zip(items, right, strict=True)]


def small_benchmark(folder: Path, *, rows: int = 12) -> Path:
    """A file in the shape of VL-RewardBench with pictures of ours beside it; every third row repeats a prompt."""
    (folder / "images").mkdir(parents=True)
    told: list[dict[str, Any]] = []
    for row in range(rows):
        asked = row - 1 if row % 3 == 1 else row
        name = f"images/{asked}.png"
        picture(asked).save(folder / name)
        told.append(
            {
                "id": f"{('wildvision', 'RLAIF-V', 'mathverse')[row % 3]}-{row}",
                "query": f"How many are there in picture {asked}?",
                "response": [f"There are {asked}.", f"There are {row + 20}, I would say."],
                "human_ranking": [0, 1] if row % 4 else [1, 0],
                "image": name,
            }
        )
    file = folder / "rows.json"
    file.write_text(json.dumps(told))
    return file


def write_outcomes(path: Path, items: Sequence[Item], **columns: Sequence[Any]) -> Path:
    """A file of outcomes, one line a row."""
    lines = [
        json.dumps({"row": each.row, "id": each.id, **{name: values[place] for name, values in columns.items()}})
        for place, each in enumerate(items)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
