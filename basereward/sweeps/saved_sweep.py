"""Keeps the cells of a sweep in its folder, so that `basereward resume` needs no file of the experiment."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from basereward.errors import RunError
from basereward.io.files import write_state
from basereward.io.limits import MIB, read_json_object
from basereward.recipe import Cell, Experiment, recipe_from_yaml, recipe_sha256, recipe_yaml
from basereward.recipe.schema import EnsembleRecipe, Node
from basereward.runs.run_folder import RunFolder
from basereward.sweeps.launcher import Launcher

FILE = "sweep.json"
LIMIT = 256 * MIB
"""Most bytes of the file: some 2,000 cells, which is the most that a sweep may have, with very long recipes."""


def save_sweep(folder: RunFolder, experiment: Experiment, launcher: Launcher) -> None:
    """Write the cells and ensembles of a sweep, and the name of its launcher."""
    cells: list[dict[str, Any]] = []
    for cell in experiment.cells:
        # As YAML and not as an object, as in the folder of a run: it is checked when it is read again.
        cells.append({**vars(cell), "recipe": recipe_yaml(cell.recipe)})
    content = {
        "name": experiment.name,
        "summary": experiment.summary,
        "launcher": launcher_name(launcher),
        "cells": cells,
        "ensembles": {name: asdict(recipe) for name, recipe in experiment.ensembles.items()},
    }
    write_state(folder.path / FILE, json.dumps(content) + "\n")


def load_sweep(folder: RunFolder) -> tuple[Experiment, Node]:
    """Read what `save_sweep` wrote.

    Returns:
        The experiment, and the launcher as a recipe names it.

    Raises:
        RunError: there is no such file, as in the folder of an earlier version, it is damaged, or its cells are not
            those that the sweep was started with.
        RecipeError: a recipe is not valid in this version.
    """
    content = read_json_object(folder.path / FILE, limit=LIMIT, error=RunError)
    try:
        cells = [Cell(**{**cell, "recipe": recipe_from_yaml(cell["recipe"])}) for cell in content["cells"]]
        ensembles = {name: EnsembleRecipe(**values) for name, values in content["ensembles"].items()}
        experiment = Experiment(content["name"], content["summary"], cells, ensembles)
        launcher = cells[0].recipe.launcher or {"_target_": str(content["launcher"])}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{folder.path / FILE} is damaged: {error}") from error
    if sweep_grid(experiment) != folder.recipe_text():
        raise RunError(
            f"'{folder.path / FILE}' or '{folder.recipe}' was edited after sweep '{folder.run_id}' was started, and a "
            "sweep resumes only with the cells that it began with. Put the files back as they were, or start a new "
            "sweep with `basereward sweep`"
        )
    return experiment, launcher


def sweep_grid(experiment: Experiment) -> str:
    """The names and hashes of the cells, which the recipe file of a sweep holds.

    >>> sweep_grid(Experiment("none", "", [], {}))
    ''
    """
    return "\n".join(f"{cell.name}: {recipe_sha256(cell.recipe)}" for cell in experiment.cells)


def launcher_name(launcher: Launcher) -> str:
    """The name by which `load_launcher` makes a launcher of this class.

    >>> from basereward.sweeps.launchers.local import Local
    >>> launcher_name(Local())
    'local'
    """
    module, name = type(launcher).__module__, type(launcher).__qualname__
    package, _, file = module.rpartition(".")
    return file if package == "basereward.sweeps.launchers" else f"{module}.{name}"


def has_saved_sweep(folder: RunFolder) -> bool:
    """Whether the cells of a sweep are in its folder.

    >>> has_saved_sweep(RunFolder.reserve())
    False
    """
    return (folder.path / FILE).is_file()
