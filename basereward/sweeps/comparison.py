"""Which differences between the cells of a sweep stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from basereward.errors import format_count
from basereward.metrics.significance import Comparison, compare
from basereward.recipe import Cell
from basereward.runs.common_test_set import Tested, by_key, shared
from basereward.runs.run_folder import find
from basereward.runs.score_files import known_scores


@dataclass(frozen=True)
class Compared:
    """The best recipe with every other, what they were compared on, and who was not compared, with the reason."""

    comparisons: Sequence[Comparison] = ()
    measure: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """A sentence for each; none where there is nothing to compare."""
        left_out = [f"{name} is not compared: {why}" for name, why in self.left_out.items()]
        return [*(each.words for each in self.comparisons), *left_out]


def compare_cells(
    cells: Sequence[Cell], results: Sequence[Mapping[str, Any]], *, ensembles: Sequence[Mapping[str, Any]] = ()
) -> Compared:
    """The recipe that has most pairs of the test data right with every other, on the groups that `shared` finds.

    Cells that differ in their seeds alone are runs of one recipe; an ensemble is one with one run.

    Args:
        results: of every cell its `run_id` and `status`; those that failed are left to the rest of the report.
        ensembles: of every ensemble its `name` too.
    """
    recipes: dict[str, dict[str, Tested]] = {}  # recipe -> seeds -> groups
    named = [(cell.without_seeds, json.dumps(cell.seeds), each) for cell, each in zip(cells, results, strict=True)]
    for name, seeds, result in [*named, *((each["name"], "", each) for each in ensembles)]:
        if result["status"] == "failed":
            continue
        runs = recipes.setdefault(name, {})
        assert seeds not in runs, f"two runs of {name} with seeds {seeds}"  # the recipe's check refuses such names
        if groups := by_key(known_scores(find(result["run_id"]).scores / "test.jsonl")):
            runs[seeds] = groups
    if len(recipes) < 2:
        return Compared()
    on = shared({name: list(runs.values()) for name, runs in recipes.items()})
    if len(on.names) < 2:
        return Compared(
            left_out={name: _why(runs, "no other was tested on its groups") for name, runs in recipes.items()}
        )
    right = {name: {seeds: on.right(run) for seeds, run in recipes[name].items()} for name in on.names}
    pairs = on.pairs
    num_groups = format_count(len(pairs), "group")
    measure = f"Points are right pairs in per cent, of the {int(pairs.sum()):,} in {num_groups} that all"
    others = {name: runs for name, runs in recipes.items() if name not in on.names}
    left_out = {name: _why(runs, "it was tested on other groups") for name, runs in others.items()}
    return Compared(compare(right, pairs), f"{measure} of these were tested on", left_out)


def _why(runs: Mapping[str, Tested], else_: str) -> str:
    if not runs:
        return "it has no test scores"
    if not set.intersection(*map(set, runs.values())):
        return "its runs were tested on different groups"
    return else_
