"""In which keys the recipes of an experiment differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from basereward.evaluation.reports.experiment.gather import Contender
from basereward.runs.params import flatten

ASIDE = ("name", "summary", "seeds", "tracking")  # that do not make another recipe


def recipes(contenders: Sequence[Contender]) -> dict[str, dict[str, str]]:
    """Keys and values by recipe; ensembles have none of their own."""
    found = {}
    for each in contenders:
        cell = each.results[0].cell
        if cell is not None:
            flat = flatten(asdict(cell.recipe))
            found[each.name] = {key: value for key, value in flat.items() if key.partition(".")[0] not in ASIDE}
    return found


def varied(of: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The keys that are not alike in all.

    >>> varied({"a": {"lr": "1", "head.layers": "2"}, "b": {"lr": "1"}})
    ['head.layers']
    """
    keys = dict.fromkeys(key for recipe in of.values() for key in recipe)
    return [key for key in keys if len({recipe.get(key) for recipe in of.values()}) > 1]


def shared(of: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The keys that are alike in all, with their values."""
    apart = set(varied(of))
    return {key: value for key, value in next(iter(of.values()), {}).items() if key not in apart}
