"""Compares the cells of a sweep: which differences between recipes are significant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from basereward.errors import format_count
from basereward.metrics.significance import Comparison, RunScores, compare
from basereward.recipe import Cell
from basereward.runs.common_test_set import CommonTestSet, TestedGroups, by_key, common_test_set
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
        """One sentence per recipe; none when there is nothing to compare.

        >>> Compared(left_out={"lr=1": "it has no test scores"}).words
        ['lr=1 is not compared: it has no test scores']
        """
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

    >>> from basereward.recipe import load_cells
    >>> cells = load_cells("learning_rates")
    >>> compare_cells(cells, [{"status": "failed"}] * len(cells)).words
    []
    """
    # Only cells are varied over seeds, so that an ensemble is a recipe with a single run.
    named = [(cell.without_seeds, json.dumps(cell.seeds), row) for cell, row in zip(cells, results, strict=True)]
    named += [(row["name"], "", row) for row in ensembles]
    recipes = _tested_groups(named)
    if len(recipes) < 2:
        return Compared()
    common = common_test_set({name: list(runs.values()) for name, runs in recipes.items()})
    if len(common.names) < 2:
        return Compared(left_out=_left_out(recipes, "no other was tested on its groups"))
    pairs = common.pairs
    measure = (
        f"Points are right pairs in per cent, of the {int(pairs.sum()):,} in {format_count(len(pairs), 'group')} that "
        "all of these were tested on"
    )
    others = {name: runs for name, runs in recipes.items() if name not in common.names}
    left_out = _left_out(others, "it was tested on other groups")
    return Compared(compare(_correct_pairs(recipes, common), pairs), measure, left_out)


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
        # The check of an experiment rejects cells of one name and equal seeds, of which one would be dropped here.
        assert seeds not in runs, f"two runs of {name} with seeds {seeds}"
        # A run without a held-out test split has no file of test scores, and is named as one that is not compared.
        groups = by_key(known_scores(find(result["run_id"]).scores / "test.jsonl"))
        if groups:
            runs[seeds] = groups
    return recipes


def _correct_pairs(recipes: Mapping[str, Mapping[str, TestedGroups]], common: CommonTestSet) -> dict[str, RunScores]:
    """The numbers of correct pairs `(G,)` in the common groups of each run, by recipe and seeds."""
    correct: dict[str, RunScores] = {}
    for name in common.names:
        correct[name] = {seeds: common.correct(run) for seeds, run in recipes[name].items()}
    return correct


def _left_out(recipes: Mapping[str, Mapping[str, TestedGroups]], otherwise: str) -> dict[str, str]:
    """Why each of these recipes is not compared; see `_reason`."""
    return {name: _reason(runs, otherwise) for name, runs in recipes.items()}


def _reason(runs: Mapping[str, TestedGroups], otherwise: str) -> str:
    """Why a recipe is not compared; `otherwise` when the reason is not in its own runs."""
    if not runs:
        return "it has no test scores"
    if not set.intersection(*map(set, runs.values())):
        return "its runs were tested on different groups"
    return otherwise
