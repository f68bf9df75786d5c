"""Reads and checks the key `ensembles` of an experiment: the models that are combined from its trained cells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from basereward.errors import unknown
from basereward.recipe.checks.hints import HintMismatch, coerce
from basereward.recipe.checks.ranges import LARGEST_SEED
from basereward.recipe.fault import EVERY_CELL, Fault
from basereward.recipe.schema import EnsembleRecipe
from basereward.recipe.yaml.keys import key_types
from basereward.recipe.yaml.merge import Layer

KEY = "ensembles"


def read_ensembles(
    experiment: Layer, *, cells: Sequence[str], recipes: Sequence[str]
) -> tuple[dict[str, EnsembleRecipe], list[Fault]]:
    """The ensembles of an experiment by name, with the full names of their members, and their faults.

    Args:
        experiment: the keys that belong to the experiment as a whole.
        cells: the names of all cells.
        recipes: the names of the cells without their seeds; cells with the same one are runs of one recipe.

    >>> layer = Layer({"ensembles": {"all": {"members": ["head=*"]}}})
    >>> ensembles, faults = read_ensembles(layer, cells=["head=1", "head=2", "lr=1"], recipes=[])
    >>> ensembles["all"].members, faults
    (['head=1', 'head=2'], [])
    """
    sections = experiment.values.get(KEY) or {}
    if not isinstance(sections, dict):
        return {}, [Fault(EVERY_CELL, KEY, f"expected a mapping of names to ensembles; {sections!r} given")]
    ensembles: dict[str, EnsembleRecipe] = {}
    faults: list[Fault] = []
    for name, values in sections.items():
        # null removes an ensemble that an included file defines.
        if values is None:
            continue
        recipe, problems = _read_ensemble(values, cells=cells)
        if name in cells:
            problems.append(("", "a cell has this name; give the ensemble another"))
        elif name in recipes:
            # Comparisons and reports group runs by this name, and would take the ensemble for one more seed.
            problems.append(("", "the cells of one recipe have this name in common; give the ensemble another name"))
        prefix = f"{KEY}.{name}"
        faults += [Fault(EVERY_CELL, f"{prefix}.{key}" if key else prefix, message) for key, message in problems]
        ensembles[name] = recipe
    return ensembles, faults


def _read_ensemble(values: Any, *, cells: Sequence[str]) -> tuple[EnsembleRecipe, list[tuple[str, str]]]:
    known = key_types(EnsembleRecipe)
    if not isinstance(values, dict):
        return EnsembleRecipe(), [("", f"expected a mapping of {', '.join(known)}; {values!r} given")]
    problems = [(key, unknown("key", key, known)) for key in values if key not in known]
    coerced = {}
    for field in fields(EnsembleRecipe):
        if field.name in values:
            try:
                coerced[field.name] = coerce(values[field.name], known[field.name])
            except HintMismatch as error:
                problems.append((field.name, str(error)))
    recipe = EnsembleRecipe(**coerced)
    members = _matching_cells(recipe.members, "members", cells, problems)
    text = _matching_cells(recipe.text, "text", cells, problems)
    # A pattern without a cell leaves too few members, and is reported already.
    if not problems and len({*members, *text}) < 2:
        problems.append(("members", f"an ensemble needs two members or more; {', '.join([*members, *text])} is named"))
    problems += number_problems(recipe)
    return replace(recipe, members=members, text=text), problems


def number_problems(recipe: EnsembleRecipe) -> list[tuple[str, str]]:
    """Numbers out of range, and keys that exclude each other, as pairs of a key and a message.

    >>> number_problems(EnsembleRecipe(pairs=0))
    [('pairs', 'must be at least 1; 0 given')]
    """
    problems = []
    if recipe.pairs < 1:
        problems.append(("pairs", f"must be at least 1; {recipe.pairs} given"))
    # The chained comparison is false for NaN too.
    if not 0 <= recipe.k < math.inf:
        problems.append(("k", f"must be a finite number of at least 0; {recipe.k:g} given"))
    if not 0 <= recipe.seed <= LARGEST_SEED:
        problems.append(("seed", f"a seed is from 0 to {LARGEST_SEED}; {recipe.seed} given"))
    if recipe.how == "soup" and recipe.text:
        message = "a soup is one model and has no members for prompts without images; leave text out, or use mean"
        problems.append(("text", message))
    return problems


def _matching_cells(
    patterns: Sequence[str], key: str, cells: Sequence[str], problems: list[tuple[str, str]]
) -> list[str]:
    """The cells whose names match a pattern, in the order of the cells; a pattern without a cell is a problem."""
    matching = set()
    for pattern in patterns:
        # Not fnmatch: names of cells contain brackets, as in `freeze=[vision]`, which it would take for a class.
        expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
        matched = {cell for cell in cells if expression.fullmatch(cell)}
        if not matched:
            problems.append((key, unknown("cell", pattern, cells)))
        matching |= matched
    return [cell for cell in cells if cell in matching]
