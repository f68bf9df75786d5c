"""Finished runs of an experiment under settings other than those that a page is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from basereward.errors import RecipeError
from basereward.recipe import Experiment, recipe_sha256
from basereward.recipe.table import count
from basereward.recipe.yaml.files import read_yaml
from basereward.runs.params import flatten
from basereward.runs.run_folder import list_runs

ASIDE = ("name", "summary", "seeds", "tracking")  # keys that do not make another setting
MOST = 3  # keys in which a run of the same cell differs; one that differs in more is of something else


def other_runs(experiment: Experiment) -> list[str]:
    """How many finished runs there are of cells of the experiment under other settings, by setting, most runs first.

    Such as `7 finished runs with trainer.steps=30`.
    """
    cells = [_flat(asdict(cell.recipe)) for cell in experiment.cells]
    hashes = {recipe_sha256(cell.recipe) for cell in experiment.cells}
    found: Counter[str] = Counter()
    for run in list_runs():
        if run.state != "finished" or run.status["recipe_sha256"] in hashes:
            continue
        try:
            recipe = read_yaml(run.recipe)
        except (RecipeError, OSError):
            continue  # a run that cannot be read says nothing of its settings
        if recipe.get("name") != experiment.name:
            continue
        flat = _flat(recipe)
        differences = min((_changes(flat, cell) for cell in cells), key=len)
        if 0 < len(differences) <= MOST:
            found[" ".join(differences)] += 1
    return [f"{count(number, 'finished run')} with {setting}" for setting, number in found.most_common()]


def _flat(recipe: Mapping[str, object]) -> dict[str, str]:
    flat = flatten({key: value for key, value in recipe.items() if key not in ASIDE})
    return {key: value for key, value in flat.items() if value != "null"}


def _changes(run: Mapping[str, str], cell: Mapping[str, str]) -> list[str]:
    """`key=value` of every key whose value in the run is another."""
    return [f"{key}={run.get(key, 'null')}" for key in {**cell, **run} if run.get(key) != cell.get(key)]
