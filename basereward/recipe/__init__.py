"""From YAML to recipes and the cells of a sweep. All faults are found before anything heavy is imported.

The public names are imported at their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from basereward.recipe.entry import Entry, names
    from basereward.recipe.fault import Fault
    from basereward.recipe.load import (
        Cell,
        Experiment,
        find_experiment,
        find_faults,
        load_cells,
        load_experiment,
        load_recipe,
    )
    from basereward.recipe.nodes import make
    from basereward.recipe.schema import Recipe
    from basereward.recipe.text import recipe_from_yaml, recipe_sha256, recipe_yaml

__all__ = [
    "Cell",
    "Entry",
    "Experiment",
    "Fault",
    "Recipe",
    "find_experiment",
    "find_faults",
    "load_cells",
    "load_experiment",
    "load_recipe",
    "make",
    "names",
    "recipe_from_yaml",
    "recipe_sha256",
    "recipe_yaml",
]

_MODULES = {
    "Cell": "load",
    "Entry": "entry",
    "Experiment": "load",
    "Fault": "fault",
    "Recipe": "schema",
    "find_experiment": "load",
    "find_faults": "load",
    "load_cells": "load",
    "load_experiment": "load",
    "load_recipe": "load",
    "make": "nodes",
    "names": "entry",
    "recipe_from_yaml": "text",
    "recipe_sha256": "text",
    "recipe_yaml": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
