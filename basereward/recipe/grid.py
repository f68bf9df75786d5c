"""The axes of a sweep, and its cells: one for every combination of their values."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.recipe.yaml.files import YAML_DEPTH, shortened
from basereward.recipe.yaml.keys import key_problem
from basereward.recipe.yaml.merge import Layer, layer_at, merge

SEEDS = "seeds"
RECIPE = "recipe"  # an axis of whole pieces of recipes, for what several keys say together
SEED_NAMES = ("data", "init", "dropout")
CELLS_LIMIT = 2_000
"""Cells of one sweep. Every cell is a complete recipe that is checked before anything runs."""


@dataclass(frozen=True)
class Axis:
    """A key that is varied, and its values by label."""

    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One combination: its name, that without its seeds, the value of every axis by key, and the same as a layer.

    `axes` holds the label of every axis by its short name.
    """

    name: str
    without_seeds: str
    overrides: dict[str, Any]
    layer: Layer
    axes: dict[str, str]


class GridError(ValueError):
    """An axis is wrong; `key` says which."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def axes(layer: Layer) -> Iterator[Axis | GridError]:
    """The axes that a merged layer asks for: those below `grid`, and then a list of seeds."""
    grid = layer.values.get("grid") or {}
    if not isinstance(grid, dict):
        yield GridError("grid", f"expected a mapping of keys to lists of values; {shortened(grid)} given")
        return
    for key, values in grid.items():
        if values is not None:  # null takes an axis out that was included
            yield _axis(key, values)
    if isinstance(layer.values.get(SEEDS), list):
        yield _seed_axis(layer.values[SEEDS])


def check_size(given: Sequence[Axis]) -> None:
    """Checks the number of cells before any is made.

    Raises:
        GridError: there are more than `CELLS_LIMIT`.
    """
    cells = math.prod(len(axis.values) for axis in given)
    if cells > CELLS_LIMIT:
        sizes = " x ".join(f"{axis.key} ({len(axis.values):,})" for axis in given)
        raise GridError("grid", f"{cells:,} cells: {sizes}; at most {CELLS_LIMIT:,} are allowed. Vary less at once")


def points(given: Sequence[Axis], *, origin: str) -> list[Point]:
    """The product of the axes, the last one fastest. Without axes there is one point, without a name."""
    short = _short_keys([axis.key for axis in given])
    result = []
    for labels in itertools.product(*[axis.values for axis in given]):
        overrides = {axis.key: axis.values[label] for axis, label in zip(given, labels, strict=True)}
        layer = Layer()
        # `model.head` before `model.head.layers`, and whole pieces first of all.
        for key in sorted(overrides, key=lambda key: (key != RECIPE, key.count("."))):
            layer = merge(layer, _axis_layer(key, overrides[key], origin=origin))
        told = [(axis, f"{short[axis.key]}={label}") for axis, label in zip(given, labels, strict=True)]
        name = ",".join(part for _, part in told)
        without_seeds = ",".join(part for axis, part in told if not is_seed(axis.key))
        axes = {short[axis.key]: str(label) for axis, label in zip(given, labels, strict=True)}
        result.append(Point(name, without_seeds, overrides, layer, axes))
    return result


def is_seed(key: str) -> bool:
    """Whether the values of an axis make further runs of one recipe.

    >>> is_seed("seeds"), is_seed("seeds.init"), is_seed("data.sources.digits.seed")
    (True, True, False)
    """
    return key.partition(".")[0] == SEEDS


def label(value: Any) -> str:
    """A value's short text.

    >>> label(1e-05), label(True), label(["vision", "merger"]), label({"_target_": "mlp", "layers": 3})
    ('1e-05', 'true', '[vision,merger]', 'mlp(layers=3)')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(label, value))}]"
    if isinstance(value, dict):
        inner = ",".join(f"{key}={label(item)}" for key, item in value.items() if key != "_target_")
        return f"{value.get('_target_', '')}({inner})" if inner else str(value.get("_target_", "{}"))
    return str(value)


def _axis(key: str, values: Any) -> Axis | GridError:
    at = f"grid.{key}"
    if key == SEEDS:
        return GridError(at, "the seeds are an axis of their own: write `seeds: [0, 1, 2]` beside `grid`")
    if key.count(".") >= YAML_DEPTH:
        return GridError("grid", f"a key has at most {YAML_DEPTH} parts; '{shortened(key)}' given")
    problem = key_problem(tuple(key.split("."))) if key != RECIPE else None
    if problem is not None:
        return GridError(at, problem)
    if key == RECIPE and not (isinstance(values, dict) and all(isinstance(value, dict) for value in values.values())):
        return GridError(at, f"expected a mapping of labels to pieces of recipes; {shortened(values)} given")
    if not isinstance(values, list | dict) or not values:
        return GridError(at, f"expected a list of values, or a mapping of labels to values; {shortened(values)} given")
    if isinstance(values, dict):
        return Axis(key, values)
    labels = [label(value) for value in values]
    twice = [text for text, number in Counter(labels).items() if number > 1]
    if twice:
        return GridError(at, f"the same value stands twice: {', '.join(twice)}")
    return Axis(key, dict(zip(labels, values, strict=True)))


def _seed_axis(values: list[Any]) -> Axis | GridError:
    wrong = [value for value in values if not isinstance(value, int) or isinstance(value, bool)]
    if wrong or not values or len(set(values)) < len(values):
        return GridError(SEEDS, f"expected different whole numbers, as in [0, 1, 2]; {shortened(values)} given")
    return Axis(SEEDS, {str(value): value for value in values})


def _axis_layer(key: str, value: Any, *, origin: str) -> Layer:
    if key == SEEDS:
        return layer_at((SEEDS,), dict.fromkeys(SEED_NAMES, value), origin=origin)
    if key == RECIPE:
        return Layer(value, {(): origin})
    return layer_at(tuple(key.split(".")), value, origin=origin)


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a key where that tells the axes apart, else the whole key."""
    last = ["seed" if key == SEEDS else key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
