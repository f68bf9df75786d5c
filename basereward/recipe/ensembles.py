"""`ensembles` of an experiment: what is made of its cells when they are trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from basereward.errors import unknown
from basereward.recipe.fault import EVERY_CELL, Fault
from basereward.recipe.hints import Misfit, fit
from basereward.recipe.keys import hints
from basereward.recipe.merge import Layer
from basereward.recipe.schema import EnsembleRecipe

KEY = "ensembles"


def ensembles(whole: Layer, *, cells: Sequence[str]) -> tuple[dict[str, EnsembleRecipe], list[Fault]]:
    """The ensembles that a layer asks for, by name, with the full names of their members; and what is wrong with them.

    Args:
        cells: the names of all cells.
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
    problems += [(key, f"{getattr(asked, key)}: {least} is the least") for key, least in _below(asked).items()]
    return replace(asked, members=members, text=text), problems


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


def _below(asked: EnsembleRecipe) -> Mapping[str, int]:
    """Numbers that are too small, with the least that they may be."""
    return {key: least for key, least in {"pairs": 1, "k": 0}.items() if getattr(asked, key) < least}
