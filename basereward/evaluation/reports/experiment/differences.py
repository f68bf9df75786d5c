"""Find the keys in which the recipes of an experiment differ, and finished runs under other settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from basereward.errors import RecipeError, format_count
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.recipe import Experiment, recipe_sha256
from basereward.recipe.yaml.files import read_yaml
from basereward.runs.params import flatten
from basereward.runs.run_folder import list_runs

# Keys that do not decide what a recipe trains.
IGNORED_KEYS = ("name", "summary", "seeds", "tracking")
# A run that differs from each cell in more keys than this belongs to another experiment of the same name.
MAX_DIFFERENCES = 3


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


def other_runs(experiment: Experiment) -> list[str]:
    """Describe finished runs of cells of the experiment under other settings, the most frequent setting first.

    Returns:
        Such as `7 finished runs with trainer.steps=30`.
    """
    cells = [_flat(asdict(cell.recipe)) for cell in experiment.cells]
    runs_by_setting: Counter[str] = Counter()
    for recipe in _other_recipes(experiment):
        flat = _flat(recipe)
        # The cell that the run is closest to is the one that it was probably meant to be.
        changes = min((_changes(flat, cell) for cell in cells), key=len)
        if 0 < len(changes) <= MAX_DIFFERENCES:
            runs_by_setting[" ".join(changes)] += 1
    return [
        f"{format_count(number, 'finished run')} with {setting}" for setting, number in runs_by_setting.most_common()
    ]


def _other_recipes(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """The recipes of finished runs that have the experiment's name and are none of its cells."""
    hashes = {recipe_sha256(cell.recipe) for cell in experiment.cells}
    for run in list_runs():
        if run.state != "finished" or run.status["recipe_sha256"] in hashes:
            continue
        try:
            recipe = read_yaml(run.recipe)
        except (RecipeError, OSError):
            # The runs are only a hint on the page, so a damaged run folder must not prevent the page.
            continue
        if recipe.get("name") == experiment.name:
            yield recipe


def _distinct_values(flat_recipes: Mapping[str, Mapping[str, str]], key: str) -> int:
    return len({recipe.get(key) for recipe in flat_recipes.values()})


def _flat(recipe: Mapping[str, object]) -> dict[str, str]:
    flat = flatten({key: value for key, value in recipe.items() if key not in IGNORED_KEYS})
    # A key that is null means the same as one that is absent.
    return {key: value for key, value in flat.items() if value != "null"}


def _changes(run: Mapping[str, str], cell: Mapping[str, str]) -> list[str]:
    """`key=value` of every key whose value in the run is not that of the cell."""
    return [f"{key}={run.get(key, 'null')}" for key in {**cell, **run} if run.get(key) != cell.get(key)]
