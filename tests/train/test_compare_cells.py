"""Cells of a sweep against each other, from the scores that their runs kept."""

from __future__ import annotations

import random
from typing import Any

import pytest

from basereward.recipe import Cell, load_cells
from basereward.train.compare_cells import compare_cells
from basereward.train.runs import RunFolder, find
from basereward.train.scores import ScoredGroup, write_scores

ITEMS = 300


def cells_of(monkeypatch: pytest.MonkeyPatch, *, seeds: int) -> list[Cell]:
    """Two learning rates with so many seeds."""
    from pathlib import Path

    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))
    changes = ["grid.optimizer.lr={a: 1e-3, b: 3e-4, c: 1e-4}"]
    return load_cells("basereward", overrides=changes + ([f"seeds={list(range(seeds))}"] if seeds > 1 else []))


def ran(cell: Cell, *, accuracy: float, seed: int) -> dict[str, Any]:
    """A run that is right on so many of its pairs."""
    run = RunFolder.create("name: x\n", recipe_sha256=cell.name, name="x")
    rng = random.Random(seed)
    right = [rng.random() < accuracy for _ in range(ITEMS)]
    groups = [
        ScoredGroup(str(i), "s", [1.0, 0.0] if ok else [0.0, 1.0], [1, 1], [(0, 1, False)])
        for i, ok in enumerate(right)
    ]
    write_scores(run.scores / "test.jsonl", groups)
    return {"name": cell.name, "run_id": run.run_id, "status": "finished", "metrics": {}}


def test_the_best_is_compared_with_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three recipes with three seeds one is clearly better than the second, and as good as the third."""
    cells = cells_of(monkeypatch, seeds=3)
    accuracy = {"lr=a": 0.9, "lr=b": 0.9, "lr=c": 0.7}
    results = [
        ran(cell, accuracy=next(a for key, a in accuracy.items() if key in cell.name), seed=place)
        for place, cell in enumerate(cells)
    ]
    found = compare_cells(cells, results)
    assert len(found) == 2
    by_other = {told["other"]: told for told in found}
    worse = next(told for other, told in by_other.items() if "lr=c" in other)
    equal = next(told for other, told in by_other.items() if "lr=c" not in other)
    assert worse["items"]["p"] < 0.01
    assert 0.1 < worse["items"]["mean"] < 0.3
    assert worse["seeds"]["p"] < 0.05
    assert "it stands" in worse["words"]
    assert "within chance" in equal["words"]


def test_with_one_seed_nothing_is_said_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a cell that failed is left out."""
    cells = cells_of(monkeypatch, seeds=1)
    results = [ran(cell, accuracy=a, seed=i) for i, (cell, a) in enumerate(zip(cells, (0.9, 0.6, 0.6), strict=True))]
    results[2] = {"name": cells[2].name, "run_id": None, "status": "failed", "metrics": {}}
    (told,) = compare_cells(cells, results)
    assert told["seeds"] is None
    assert "seeds were not varied" in told["words"]
    results[1] = results[2]
    assert compare_cells(cells, results) == []


def test_a_model_of_other_groups_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are compared on theirs."""
    cells = cells_of(monkeypatch, seeds=1)
    results = [ran(cell, accuracy=a, seed=i) for i, (cell, a) in enumerate(zip(cells, (0.9, 0.6, 0.7), strict=True))]
    other = [ScoredGroup(str(i), "text", [1.0, 0.0], [1, 1], [(0, 1, False)]) for i in range(50)]
    write_scores(find(results[2]["run_id"]).scores / "test.jsonl", other)
    (told,) = compare_cells(cells, results)
    assert (told["better"], told["other"]) == ("lr=a", "lr=b")
    assert 0.2 < told["items"]["mean"] < 0.4
