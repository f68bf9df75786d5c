"""Small benchmarks with known rows, and loaders of the real annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.items import Item, JudgedItem, Outcome
from tests.helpers.support import picture

ANY_SIZE = ("expected_items=null", "expected_counts=null")
"""Overrides for small benchmark files, which do not have the published number of items."""


def vl_rewardbench(real_rows: Path) -> Benchmark:
    """Load the real annotations of VL-RewardBench."""
    return load_benchmark("vl_rewardbench", overrides=[f"data={real_rows}/benchmarks/vl_rewardbench.json"])


def mm_rlhf(real_rows: Path) -> Benchmark:
    """Load the real annotations of MM-RLHF-RewardBench."""
    path = f"{real_rows}/benchmarks/mm_rlhf_rewardbench.jsonl"
    return load_benchmark("mm_rlhf_rewardbench", overrides=[f"data={path}"])


def item(row: int, *, prompt: str | None = None, right: int = 0, lengths: tuple[int, int] = (4, 4)) -> Item:
    """Return a pair whose answers have `lengths` letters."""
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
    """Attach right or wrong outcomes to items."""
    return [JudgedItem(pair, Outcome(correct=bool(value))) for pair, value in zip(items, right, strict=True)]


def small_benchmark(folder: Path, *, rows: int = 12) -> Path:
    """Write a file in the format of VL-RewardBench with its pictures; every third row repeats a prompt."""
    (folder / "images").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for row in range(rows):
        picture_number = row - 1 if row % 3 == 1 else row
        name = f"images/{picture_number}.png"
        picture(picture_number).save(folder / name)
        records.append(
            {
                "id": f"{('wildvision', 'RLAIF-V', 'mathverse')[row % 3]}-{row}",
                "query": f"How many are there in picture {picture_number}?",
                "response": [f"There are {picture_number}.", f"There are {row + 20}, I would say."],
                "human_ranking": [0, 1] if row % 4 else [1, 0],
                "image": name,
            }
        )
    file = folder / "rows.json"
    file.write_text(json.dumps(records))
    return file


def write_outcomes(path: Path, items: Sequence[Item], **columns: Sequence[Any]) -> Path:
    """Write a file of outcomes with one line a row."""
    lines = [
        json.dumps(
            {
                "row": benchmark_item.row,
                "id": benchmark_item.id,
                **{name: values[index] for name, values in columns.items()},
            }
        )
        for index, benchmark_item in enumerate(items)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
