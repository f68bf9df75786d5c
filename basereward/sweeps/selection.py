"""Selects some cells of an experiment by patterns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

from basereward.errors import RecipeError
from basereward.recipe import Experiment
from basereward.recipe.schema import EnsembleRecipe

logger = logging.getLogger(__name__)


def select_cells(experiment: Experiment, patterns: Sequence[str]) -> Experiment:
    """Keep the cells whose names match one of the patterns, and the ensembles whose members are all kept.

    Args:
        experiment: with all cells.
        patterns: names of cells, or glob patterns over them, as in `head=2_*`; without one, all cells are kept.

    Raises:
        RecipeError: a pattern matches no cell.

    >>> from basereward.recipe import load_experiment
    >>> [cell.name for cell in select_cells(load_experiment("head_depth"), ["head=2_*", "head=5_silu"]).cells]
    ['head=2_none', 'head=2_tanh', 'head=2_silu', 'head=5_silu']
    >>> select_cells(load_experiment("head_depth"), ["head=6*"])
    Traceback (most recent call last):
    basereward.errors.RecipeError: --only 'head=6*' matches no cell of head_depth. Its cells: head=1_none, ...
    """
    if not patterns:
        return experiment
    names = [cell.name for cell in experiment.cells]
    selected: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if _matches(name, pattern)}
        if not matching:
            raise RecipeError(
                f"--only '{pattern}' matches no cell of {experiment.name}. Its cells: {', '.join(names)}. "
                "* stands for any characters, as in 'head=2_*'"
            )
        selected |= matching
    cells = [cell for cell in experiment.cells if cell.name in selected]
    return dataclasses.replace(experiment, cells=cells, ensembles=_complete_ensembles(experiment, selected))


def _complete_ensembles(experiment: Experiment, selected: set[str]) -> dict[str, EnsembleRecipe]:
    """The ensembles whose members are all selected."""
    ensembles = {}
    for name, recipe in experiment.ensembles.items():
        if selected.issuperset([*recipe.members, *recipe.text]):
            ensembles[name] = recipe
        else:
            logger.info("ensemble %s is left out: not all of its members are selected", name)
    return ensembles


def _matches(name: str, pattern: str) -> bool:
    # A name may have brackets, as in `freeze=[vision,merger]`, which a glob reads as a choice of characters.
    return name == pattern or fnmatchcase(name, pattern)
