"""Which differences between the cells of a sweep stand."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from basereward.metrics.significance import holm, in_words, over_items, over_seeds
from basereward.recipe import Cell
from basereward.train.runs import find
from basereward.train.scores import ScoredGroup, read_scores

Key = tuple[str, str]


def compare_cells(
    cells: Sequence[Cell], results: Sequence[Mapping[str, Any]], *, ensembles: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The recipe that is best on the test data with every other, on the groups that most have been tested on; one that
    was tested on others, such as a model of text among readers of pictures, is left out.

    Cells that differ in their seeds alone are one recipe. Probabilities are adjusted for the number of comparisons.

    Args:
        results: of every cell its `run_id` and `status`.
        ensembles: of every ensemble its `name` too.

    Returns:
        `better`, `other`, `items` and `seeds` (mean, low, high, p; None with one seed), and `words`; none where fewer
        than two recipes finished.
    """
    recipes: dict[str, dict[str, dict[Key, float]]] = {}  # recipe -> seed -> group -> share of its preferences
    named = [(cell.without_seeds, json.dumps(cell.seeds), result) for cell, result in zip(cells, results, strict=True)]
    for name, seeds, result in [*named, *((each["name"], "", each) for each in ensembles)]:
        if result["status"] == "failed":
            continue
        file = find(result["run_id"]).scores / "test.jsonl"
        if file.is_file():
            shares = {(each.source, each.id): _share(each) for each in read_scores(file) if each.margins}
            runs = recipes.setdefault(name, {})
            assert seeds not in runs, f"two runs of {name} with seeds {seeds}"  # names are checked with the recipe
            runs[seeds] = shares
    groups = _shared(recipes)
    recipes = {n: runs for n, runs in recipes.items() if groups and all(s.keys() >= set(groups) for s in runs.values())}
    if len(recipes) < 2:
        return []
    by_item = {
        name: [statistics.fmean(shares[group] for shares in runs.values()) for group in groups]
        for name, runs in recipes.items()
    }
    best = max(by_item, key=lambda name: statistics.fmean(by_item[name]))
    others = [name for name in recipes if name != best]
    items = [over_items(by_item[best], by_item[other]) for other in others]
    adjusted = [replace(each, p=p) for each, p in zip(items, holm([each.p for each in items]), strict=True)]
    found = []
    for other, on_items in zip(others, adjusted, strict=True):
        both = sorted(recipes[best].keys() & recipes[other].keys())
        means = [[statistics.fmean(recipes[name][s][g] for g in groups) for s in both] for name in (best, other)]
        on_seeds = over_seeds(*means) if len(both) > 1 else None
        found.append(
            {
                "better": best,
                "other": other,
                "items": asdict(on_items),
                "seeds": None if on_seeds is None else asdict(on_seeds),
                "words": in_words(best, other, on_items, on_seeds),
            }
        )
    return found


def _shared(recipes: Mapping[str, Mapping[str, Mapping[Key, float]]]) -> list[Key]:
    """The groups that most recipes have been tested on, with all their seeds."""
    tested = Counter(group for runs in recipes.values() for group in set.intersection(*map(set, runs.values())))
    most = max(tested.values(), default=0)
    return sorted(group for group, number in tested.items() if number == most)


def _share(group: ScoredGroup) -> float:
    """Of a group's preferences, those that are right."""
    return statistics.fmean(margin > 0 for margin in group.margins)
