"""Find the keys in which the recipes of an experiment differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from basereward.evaluation.reports.experiment.gather import Contender
from basereward.runs.params import flatten

# Keys that do not decide what a recipe trains.
IGNORED_KEYS = ("name", "summary", "seeds", "tracking")


def recipes(contenders: Sequence[Contender]) -> dict[str, dict[str, str]]:
    """Flatten the recipes to dotted keys and values, by name. Ensembles have no recipe of their own."""
    flat_recipes = {}
    for contender in contenders:
        cell = contender.results[0].cell
        if cell is not None:
            flat = flatten(asdict(cell.recipe))
            flat_recipes[contender.name] = {
                key: value for key, value in flat.items() if key.partition(".")[0] not in IGNORED_KEYS
            }
    return flat_recipes


def varied(flat_recipes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between recipes, or that some recipes lack.

    >>> varied({"a": {"lr": "1", "head.layers": "2"}, "b": {"lr": "1"}})
    ['head.layers']
    """
    keys: dict[str, None] = {}
    for recipe in flat_recipes.values():
        keys |= dict.fromkeys(recipe)
    return [key for key in keys if _distinct_values(flat_recipes, key) > 1]


def shared(flat_recipes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The keys that have one value in all recipes, with that value.

    >>> shared({"a": {"lr": "1", "head.layers": "2"}, "b": {"lr": "1"}})
    {'lr': '1'}
    """
    different = set(varied(flat_recipes))
    first = next(iter(flat_recipes.values()), {})
    return {key: value for key, value in first.items() if key not in different}


def _distinct_values(flat_recipes: Mapping[str, Mapping[str, str]], key: str) -> int:
    return len({recipe.get(key) for recipe in flat_recipes.values()})
