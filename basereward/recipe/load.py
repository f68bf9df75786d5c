"""From the name of an experiment to its cells: read, merge, vary, check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.errors import RecipeError
from basereward.recipe.check import Check
from basereward.recipe.fault import EVERY_CELL, Fault, fold, told
from basereward.recipe.files import experiments_folder, find_file, head_comment
from basereward.recipe.grid import SEEDS, Axis, GridError, Point, axes, points
from basereward.recipe.include import Reader
from basereward.recipe.interpolation import interpolate
from basereward.recipe.merge import Layer, merge
from basereward.recipe.override import read_overrides
from basereward.recipe.ranges import range_problems
from basereward.recipe.schema import Recipe
from basereward.recipe.text import build_recipe, recipe_sha256

SWEEP = "sweep"


@dataclass(frozen=True)
class Cell:
    """One point of a sweep's grid: its name, the value of every axis by key, and its complete recipe."""

    name: str
    overrides: dict[str, Any]
    recipe: Recipe


def load_recipe(experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of an experiment that varies nothing.

    Args:
        experiment: a name in the folder of experiments, or a path to a YAML file.
        profile: what it runs on: a name in `profiles` of that folder, a path to a YAML file, or None for an experiment
            that says it all.
        overrides: `key=value`, dotted keys, values read as YAML; they win over everything else.

    Raises:
        RecipeError: anything is wrong with it, all of which the message lists; or it has several cells.
    """
    cells = load_cells(experiment, profile=profile, overrides=overrides)
    if len(cells) > 1:
        names = ", ".join(cell.name for cell in cells[:3])
        raise RecipeError(
            f"'{experiment}' is a sweep of {len(cells)} cells ({names}, ...), one recipe is expected; "
            "take one of load_cells(...), or the command `basereward sweep`, or drop its axes with grid=null"
        )
    return cells[0].recipe


def load_cells(experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = ()) -> list[Cell]:
    """The cells of an experiment: every combination of its axes, or the one recipe that it is without them.

    Args: as of `load_recipe`.

    Raises:
        RecipeError: anything is wrong with any cell; `faults` holds all faults of all cells, the message lists them.
    """
    cells, faults = find_faults(experiment, profile=profile, overrides=overrides)
    if faults:
        raise refusal(experiment, faults)
    return cells


def refusal(experiment: str, faults: Sequence[Fault]) -> RecipeError:
    """The error that lists all faults."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError("\n  ".join([f"{count} in recipe '{experiment}':", *told(faults)]), faults)


def find_faults(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = ()
) -> tuple[list[Cell], list[Fault]]:
    """The cells of an experiment and everything that is wrong with them. No model is loaded and no class is made.

    Where there are faults, the recipes of the cells hold defaults in the place of what is wrong: use only their names.
    """
    reader = Reader(experiments_folder())
    base, rest = _read(experiment, profile, overrides, reader)
    if base is None:
        return [], reader.faults
    found = list(axes(base))
    for error in (axis for axis in found if isinstance(axis, GridError)):
        origin = base.origin(tuple(error.key.split(".", maxsplit=1)))
        reader.tell(error.key, f"{error} ({origin})")
    grid = points([axis for axis in found if isinstance(axis, Axis)], origin=base.origin(("grid",)))
    base = _without_axes(base)
    cells, faults = [], []
    for point in grid:
        cell, wrong = _cell(point, base, rest, reader=reader)
        cells.append(cell)
        faults += wrong
    faults = [*reader.faults, *fold(faults, cells=[cell.name for cell in cells])]
    return cells, faults or _equal_cells(cells)


def _read(
    experiment: str, profile: str | None, overrides: Iterable[str], reader: Reader
) -> tuple[Layer | None, list[Layer]]:
    """Profile and experiment with the axes that overrides name, and the other overrides. None: a file is not there."""
    layers = []
    if profile is not None:
        layers.append(_file(profile, "profile", reader))
        if layers[0] and "grid" in layers[0].values:
            reader.tell("grid", f"axes belong into an experiment, not a profile ({layers[0].origin(('grid',))})")
            layers[0] = layers[0].without("grid")
    layers.append(_file(experiment, "experiment", reader))
    # A new target drops the arguments of the old one, so it comes before the arguments, whatever the order of typing.
    ordered = sorted(overrides, key=lambda override: not override.partition("=")[0].endswith("_target_"))
    rest = read_overrides(ordered, reader=reader)
    axes_given = [_only_axes(layer) for layer in rest]
    if None in layers:
        return None, rest
    known = [layer for layer in layers if layer is not None]
    varied = any(_only_axes(layer).values for layer in (*known, *axes_given))
    if profile is not None:
        known[0] = _for_sweeps(known[0], varied=varied)
    base = Layer()
    for layer in (*known, *axes_given):
        base = merge(base, layer)
    return base, [_without_axes(layer) for layer in rest]


def _for_sweeps(profile: Layer, *, varied: bool) -> Layer:
    """A profile with what it says under `sweep`, the budget of one cell among many, when something is varied."""
    changes = profile.values.get(SWEEP) or {}
    origins = {path[1:]: origin for path, origin in profile.origins.items() if path[:1] == (SWEEP,)}
    plain = profile.without(SWEEP)
    return merge(plain, Layer(changes, {(): profile.origin((SWEEP,)), **origins})) if varied else plain


def _file(given: str, kind: str, reader: Reader) -> Layer | None:
    folder = reader.folder / "profiles" if kind == "profile" else reader.folder
    try:
        file = find_file(given, kind=kind, folder=folder)
        layer = reader.read(file)
    except RecipeError as error:
        reader.tell("", str(error))
        return None
    if kind == "experiment":
        named = Layer({"name": file.stem, "summary": head_comment(file)}, {(): str(file)})
        layer = merge(named, layer)
    return layer


def _only_axes(layer: Layer) -> Layer:
    for key in layer.values:
        if not _is_axis(layer, key):
            layer = layer.without(key)
    return layer


def _without_axes(layer: Layer) -> Layer:
    for key in layer.values:
        if _is_axis(layer, key):
            layer = layer.without(key)
    return layer


def _is_axis(layer: Layer, key: str) -> bool:
    return key == "grid" or (key == SEEDS and isinstance(layer.values[key], list))


def _cell(point: Point, base: Layer, rest: Sequence[Layer], *, reader: Reader) -> tuple[Cell, list[Fault]]:
    layer = merge(base, point.layer)
    for override in rest:
        layer = merge(layer, override)
    layer, problems = interpolate(layer)
    unread = [(fault.key, fault.message) for fault in reader.faults if fault.key]
    check = Check(layer, complete=reader.complete)
    recipe = build_recipe(check.values)
    problems += _new(check.faults, [*unread, *problems])
    if reader.complete:
        located = [(key, f"{message}{_origin(layer, key)}") for key, message in range_problems(recipe)]
        problems += _new(located, [*unread, *problems])
    name = point.name or recipe.name
    return Cell(name, point.overrides, recipe), [Fault(name, key, message) for key, message in problems]


def _new(problems: Iterable[tuple[str, str]], known: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that do not follow from a known one: what could not be read need not be told to be missing."""
    paths = [f"{key}." for key, _ in known]
    return [
        (key, message)
        for key, message in problems
        if not any(f"{key}.".startswith(path) or path.startswith(f"{key}.") for path in paths)
    ]


def _origin(layer: Layer, key: str) -> str:
    origin = layer.origin(tuple(key.split(".")))
    return f" ({origin})" if origin else ""


def _equal_cells(cells: Sequence[Cell]) -> list[Fault]:
    """Cells that would train the same model: an axis has two equal values, or an override hides it."""
    alike: dict[str, list[str]] = {}
    for cell in cells:
        alike.setdefault(recipe_sha256(cell.recipe), []).append(cell.name)
    reason = "two values of an axis mean the same, or an override hides an axis"
    return [
        Fault(EVERY_CELL, "grid", f"these cells are one and the same recipe: {', '.join(names)}; {reason}")
        for names in alike.values()
        if len(names) > 1
    ]
