"""`ensembles` of an experiment: what is made of its cells when they are trained."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from basereward.errors import unknown
from basereward.recipe.checks.hints import Misfit, fit
from basereward.recipe.checks.ranges import LARGEST_SEED
from basereward.recipe.fault import EVERY_CELL, Fault
from basereward.recipe.schema import EnsembleRecipe
from basereward.recipe.yaml.keys import hints
from basereward.recipe.yaml.merge import Layer

KEY = "ensembles"


def ensembles(
    whole: Layer, *, cells: Sequence[str], recipes: Sequence[str]
) -> tuple[dict[str, EnsembleRecipe], list[Fault]]:
    """The ensembles that a layer asks for, by name, with the full names of their members; and what is wrong with them.

    Args:
        cells: the names of all cells.
        recipes: what cells that differ in their seeds alone are called together.
    """
    given = whole.values.get(KEY) or {}
    if not isinstance(given, dict):
        return {}, [Fault(EVERY_CELL, KEY, f"expected a mapping of names to ensembles; {given!r} given")]
    found: dict[str, EnsembleRecipe] = {}
    faults: list[Fault] = []
    for name, values in given.items():
        if values is None:  # takes out one that was included
            continue
        read, problems = _read(values, cells=cells)
        if name in cells:
            problems.append(("", "a cell has this name; give the ensemble another"))
        elif name in recipes:  # comparisons and reports would take it for one more seed of that recipe
            problems.append(("", "the cells of one recipe are called so together; give the ensemble another name"))
        at = f"{KEY}.{name}"
        faults += [Fault(EVERY_CELL, f"{at}.{key}" if key else at, message) for key, message in problems]
        found[name] = read
    return found, faults


def _read(values: Any, *, cells: Sequence[str]) -> tuple[EnsembleRecipe, list[tuple[str, str]]]:
    known = hints(EnsembleRecipe)
    if not isinstance(values, dict):
        return EnsembleRecipe(), [("", f"expected a mapping of {', '.join(known)}; {values!r} given")]
    problems = [(key, unknown("key", key, known)) for key in values if key not in known]
    taken = {}
    for field in fields(EnsembleRecipe):
        if field.name in values:
            try:
                taken[field.name] = fit(values[field.name], known[field.name])
            except Misfit as error:
                problems.append((field.name, str(error)))
    asked = EnsembleRecipe(**taken)
    members, text = (_cells(getattr(asked, key), key, cells, problems) for key in ("members", "text"))
    if not problems and len({*members, *text}) < 2:
        problems.append(("members", f"an ensemble has two members or more; {', '.join([*members, *text])} is named"))
    problems += number_problems(asked)
    return replace(asked, members=members, text=text), problems


def number_problems(asked: EnsembleRecipe) -> list[tuple[str, str]]:
    """What is of the right type and still cannot be meant, as (key, message); NaN is in no range."""
    problems = []
    if asked.pairs < 1:
        problems.append(("pairs", f"must be at least 1; {asked.pairs} given"))
    if not 0 <= asked.k < math.inf:
        problems.append(("k", f"must be a finite number of at least 0; {asked.k:g} given"))
    if not 0 <= asked.seed <= LARGEST_SEED:
        problems.append(("seed", f"a seed is from 0 to {LARGEST_SEED}; {asked.seed} given"))
    if asked.how == "soup" and asked.text:
        problems.append(("text", "a soup is one model and has no members for text alone; leave text out, or take mean"))
    return problems


def _cells(patterns: Sequence[str], key: str, cells: Sequence[str], problems: list[tuple[str, str]]) -> list[str]:
    """The cells that are meant, each once, in their order."""
    meant = set()
    for pattern in patterns:
        expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
        matched = {cell for cell in cells if expression.fullmatch(cell)}
        if not matched:
            problems.append((key, unknown("cell", pattern, cells)))
        meant |= matched
    return [cell for cell in cells if cell in meant]
