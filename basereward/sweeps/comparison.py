"""Compares the cells of a sweep: which differences between recipes are significant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from basereward.errors import format_count
from basereward.metrics.significance import Comparison, compare
from basereward.recipe import Cell
from basereward.runs.common_test_set import TestedGroups, by_key, common_test_set
from basereward.runs.run_folder import find
from basereward.runs.score_files import known_scores


@dataclass(frozen=True)
class Compared:
    """The best recipe compared with every other one.

    Attributes:
        comparisons: one for each other recipe.
        measure: the unit of the numbers, and the pairs that they are measured on.
        left_out: recipes that are not compared, with the reason.
    """

    comparisons: Sequence[Comparison] = ()
    measure: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """One sentence per recipe; none when there is nothing to compare."""
        sentences = [comparison.words for comparison in self.comparisons]
        return sentences + [f"{name} is not compared: {reason}" for name, reason in self.left_out.items()]


def compare_cells(
    cells: Sequence[Cell], results: Sequence[Mapping[str, Any]], *, ensembles: Sequence[Mapping[str, Any]] = ()
) -> Compared:
    """Compare the recipe with the most correct test pairs with every other one, on `common_test_set`.

    Cells that differ only in their seeds are runs of one recipe. An ensemble is a recipe with one run.

    Args:
        cells: of the sweep.
        results: `run_id` and `status` of every cell; failed cells are skipped.
        ensembles: `name`, `run_id` and `status` of every ensemble.
    """
    named = [(cell.without_seeds, json.dumps(cell.seeds), row) for cell, row in zip(cells, results, strict=True)]
    named += [(row["name"], "", row) for row in ensembles]
    recipes = _tested_groups(named)
    if len(recipes) < 2:
        return Compared()
    common = common_test_set({name: list(runs.values()) for name, runs in recipes.items()})
    if len(common.names) < 2:
        reason = "no other was tested on its groups"
        return Compared(left_out={name: _reason(runs, reason) for name, runs in recipes.items()})
    correct: dict[str, dict[str, NDArray[np.int64]]] = {}
    for name in common.names:
        correct[name] = {seeds: common.correct(run) for seeds, run in recipes[name].items()}
    pairs = common.pairs
    measure = (
        f"Points are right pairs in per cent, of the {int(pairs.sum()):,} in {format_count(len(pairs), 'group')} that "
        "all of these were tested on"
    )
    left_out = {}
    for name, runs in recipes.items():
        if name not in common.names:
            left_out[name] = _reason(runs, "it was tested on other groups")
    return Compared(compare(correct, pairs), measure, left_out)


def _tested_groups(rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> dict[str, dict[str, TestedGroups]]:
    """The tested groups of each run, by recipe and seeds.

    Args:
        rows: name of the recipe, seeds as text, and the result of the run.
    """
    recipes: dict[str, dict[str, TestedGroups]] = {}
    for name, seeds, result in rows:
        if result["status"] == "failed":
            continue
        runs = recipes.setdefault(name, {})
        assert seeds not in runs, f"two runs of {name} with seeds {seeds}"  # the check of recipes rejects such names
        groups = by_key(known_scores(find(result["run_id"]).scores / "test.jsonl"))
        if groups:
            runs[seeds] = groups
    return recipes


def _reason(runs: Mapping[str, TestedGroups], otherwise: str) -> str:
    """Why a recipe is not compared; `otherwise` when the reason is not in its own runs."""
    if not runs:
        return "it has no test scores"
    if not set.intersection(*map(set, runs.values())):
        return "its runs were tested on different groups"
    return otherwise
