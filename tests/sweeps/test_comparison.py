"""Test the comparison of a sweep's cells by the test scores of their runs."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from basereward.recipe import Cell, load_cells
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, write_scores
from basereward.sweeps.comparison import compare_cells

ITEMS = 300
RATES = "grid.optimizer.lr={a: 1e-3, b: 3e-4, c: 1e-4}"


@pytest.fixture(autouse=True)
def experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))


def cells_of(*changes: str) -> list[Cell]:
    """Return the cells of three learning rates and further changes."""
    return load_cells("basereward", overrides=[RATES, *changes])


def ran(name: str, groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    """Write a run with these scores and return its row of the sweep's result."""
    run = RunFolder.create("name: x\n", recipe_sha256=name, name="x")
    write_scores(run.scores / "test.jsonl", groups)
    return {"name": name, "run_id": run.run_id, "status": "finished", "metrics": {}}


def groups_of(accuracy: float, *, seed: int, source: str = "s") -> list[ScoredGroup]:
    """Return groups that are right with probability `accuracy`."""
    rng = random.Random(seed)
    right = [rng.random() < accuracy for _ in range(ITEMS)]
    return [
        ScoredGroup(str(index), source, [1.0, 0.0] if is_right else [0.0, 1.0], [1, 1], [(0, 1, False)])
        for index, is_right in enumerate(right)
    ]


def test_best_recipe_is_compared_with_every_other() -> None:
    """Each of three recipes has three seeds; the best one is clearly better than the second and as good as the
    third."""
    cells = cells_of("seeds=[0,1,2]")
    accuracy = {"lr=a": 0.9, "lr=b": 0.9, "lr=c": 0.7}
    results = [ran(cell.name, groups_of(accuracy[cell.without_seeds], seed=index)) for index, cell in enumerate(cells)]
    compared = compare_cells(cells, results)
    assert len(compared.comparisons) == 2
    by_other = {comparison.other: comparison for comparison in compared.comparisons}
    worse = by_other.pop("lr=c")
    (equal,) = by_other.values()
    assert worse.items.p < 0.01
    assert 0.1 < worse.items.mean < 0.3
    assert worse.seeds is not None
    assert worse.seeds.p < 0.05
    assert "significant (" in worse.words
    assert "not significant" in equal.words
    assert (
        compared.measure
        == "Points are right pairs in per cent, of the 300 in 300 groups that all of these were tested on"
    )
    assert not compared.left_out


def test_comparison_of_single_runs_says_nothing_of_seeds() -> None:
    """A failed cell is not compared."""
    cells = cells_of()
    results = [
        ran(cell.name, groups_of(accuracy, seed=index))
        for index, (cell, accuracy) in enumerate(zip(cells, (0.9, 0.6, 0), strict=True))
    ]
    results[2] = {"name": cells[2].name, "run_id": None, "status": "failed", "metrics": {}}
    (comparison,) = compare_cells(cells, results).comparisons
    assert comparison.seeds is None
    assert re.search(r"significant for these runs \(p = .*\); each has one run, which", comparison.words)
    results[1] = results[2]
    assert compare_cells(cells, results).words == []


def test_ensemble_is_compared_with_its_members() -> None:
    """The ensemble has one run and its members have three, so the message gives the numbers of runs."""
    cells = load_cells("seeds")
    results = [ran(cell.name, groups_of(0.6, seed=index)) for index, cell in enumerate(cells)]
    ensemble_result = ran("together", groups_of(0.9, seed=9))
    (comparison,) = compare_cells(cells, results, ensembles=[ensemble_result]).comparisons
    assert (comparison.better, comparison.other) == ("together", "seeds")
    assert re.search(r"significant for these runs \(p = .*\); of their 1 and 3 runs", comparison.words)


def test_cell_tested_on_other_groups_is_named() -> None:
    """The other cells are compared on their groups, also where as many recipes have either set of groups."""
    cells = cells_of()
    text = groups_of(0.8, seed=3, source="text")[:50]
    results = [
        ran(cell.name, groups_of(accuracy, seed=index))
        for index, (cell, accuracy) in enumerate(zip(cells, (0.9, 0.6, 0), strict=True))
    ]
    results[2] = ran("lr=c", text)
    compared = compare_cells(cells, results)
    (comparison,) = compared.comparisons
    assert (comparison.better, comparison.other) == ("lr=a", "lr=b")
    assert 0.2 < comparison.items.mean < 0.4
    assert compared.words[-1] == "lr=c is not compared: it was tested on other groups"
    compared = compare_cells(cells, results, ensembles=[ran("of text", text)])
    assert [(pair.better, pair.other) for pair in compared.comparisons] == [("lr=a", "lr=b")]
    assert set(compared.left_out) == {"lr=c", "of text"}


def test_cells_without_shared_groups_are_all_named() -> None:
    """Every cell was tested on a source of its own; then one cell has no scores."""
    cells = cells_of()
    results = [ran(cell.name, groups_of(0.9, seed=0, source=source)) for cell, source in zip(cells, "xyz", strict=True)]
    assert compare_cells(cells, results).words == [
        f"{cell.name} is not compared: no other was tested on its groups" for cell in cells
    ]
    results[0] = ran("lr=a", [])
    assert compare_cells(cells, results).words[0] == "lr=a is not compared: it has no test scores"


def test_seed_of_a_source_is_no_seed_of_a_run() -> None:
    """`data.sources.digits.seed` gives two recipes that are compared, and `seeds.init` gives two runs of one recipe."""
    cells = load_cells("basereward", overrides=["grid.data.sources.digits.seed=[0,1]"])
    results = [
        ran(cell.name, groups_of(accuracy, seed=index))
        for index, (cell, accuracy) in enumerate(zip(cells, (0.9, 0.6), strict=True))
    ]
    (comparison,) = compare_cells(cells, results).comparisons
    assert (comparison.better, comparison.other) == ("seed=0", "seed=1")
    cells = load_cells("basereward", overrides=["grid.seeds.init=[0,1]"])
    assert not compare_cells(cells, results).comparisons
