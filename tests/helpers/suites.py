"""Suites of small benchmarks in a folder of experiments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.fixtures.published.benchmarks.benchmark_rows import rewardbench
from tests.fixtures.published.writing import write_jsonl
from tests.helpers.benchmark_rows import small_benchmark


def write_benchmark(folder: Path, name: str, **keys: Any) -> None:
    """Write the file of a benchmark of the suite `mine` into `folder/benchmarks`."""
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    node = {"_target_": "annotated", "split": "train", "suite": "mine", **keys}
    (folder / "benchmarks" / f"{name}.yaml").write_text(yaml.safe_dump(node))


def pictures_benchmark(folder: Path, name: str, data: Path, *, rows: int, **keys: Any) -> None:
    """Write a benchmark in the format of VL-RewardBench with its rows and pictures."""
    file = small_benchmark(data, rows=rows)
    protocol = {"_target_": "vl_rewardbench"}
    write_benchmark(folder, name, path=str(file), protocol=protocol, headline=["official/overall"], **keys)


def text_benchmark(folder: Path, name: str, data: Path, *, rows: int, **keys: Any) -> None:
    """Write a benchmark in the format of RewardBench with its rows."""
    write_jsonl(data / "rows.jsonl", [rewardbench("hep-rust", number=number) for number in range(rows)])
    protocol = {"_target_": "rewardbench"}
    headline = ["four_sections/overall", "subsets/overall"]
    write_benchmark(folder, name, path=str(data / "rows.jsonl"), protocol=protocol, headline=headline, **keys)


def stored(folder: Path) -> Mapping[str, Any]:
    """Return the facts of an evaluation."""
    facts: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return facts
