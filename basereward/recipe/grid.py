"""The axes of a sweep, and the points of its grid: one for every combination of their values."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.recipe.yaml.files import YAML_DEPTH, shortened
from basereward.recipe.yaml.keys import key_problem
from basereward.recipe.yaml.merge import Layer, layer_at, merge

SEEDS = "seeds"
RECIPE = "recipe"
"""The key of an axis whose values are parts of recipes, for changes that need several keys."""
SEED_NAMES = ("data", "init", "dropout")
CELLS_LIMIT = 2_000
"""Most cells of one sweep. All of them are checked before the first one runs, at some milliseconds each."""


@dataclass(frozen=True)
class Axis:
    """A key that is varied, and its values by their labels.

    >>> Axis("optimizer.lr", {"0.001": 1e-3}).key
    'optimizer.lr'
    """

    key: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Attributes:
        name: the labels of all axes, as in `head=2_silu,seed=1`; empty without axes.
        without_seeds: the name without the axes of seeds.
        overrides: the value of every axis by its key.
        layer: the same values as a layer.
        axes: the label of every axis by its short name.

    >>> (point,) = points([Axis("optimizer.lr", {"0.001": 1e-3})], origin="")
    >>> point.name, point.layer.values
    ('lr=0.001', {'optimizer': {'lr': 0.001}})
    """

    name: str
    without_seeds: str
    overrides: dict[str, Any]
    layer: Layer
    axes: dict[str, str]


class GridError(ValueError):
    """An axis is wrong.

    Attributes:
        key: the key of the axis.

    >>> str(GridError("grid.lr", "expected a list"))
    'expected a list'
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def axes(layer: Layer) -> Iterator[Axis | GridError]:
    """The axes of an experiment: those below `grid`, and then a list of seeds. A wrong axis is an error in its place.

    >>> [axis.key for axis in axes(Layer({"grid": {"optimizer.lr": [1e-3, 1e-4]}, "seeds": [0, 1]}))]
    ['optimizer.lr', 'seeds']
    """
    grid = layer.values.get("grid") or {}
    if not isinstance(grid, dict):
        yield GridError("grid", f"expected a mapping of keys to lists of values; {shortened(grid)} given")
        return
    for key, values in grid.items():
        # null removes an axis that an included file defines.
        if values is not None:
            yield _axis(key, values)
    if isinstance(layer.values.get(SEEDS), list):
        yield _seed_axis(layer.values[SEEDS])


def check_size(varied: Sequence[Axis]) -> None:
    """Checks the number of cells before any of them exists.

    Raises:
        GridError: there are more than `CELLS_LIMIT`.

    >>> check_size([Axis("optimizer.lr", {str(number): number for number in range(3000)})])
    Traceback (most recent call last):
    basereward.recipe.grid.GridError: 3,000 cells: optimizer.lr (3,000); at most 2,000 are allowed. Vary fewer keys
    """
    cells = math.prod(len(axis.values) for axis in varied)
    if cells > CELLS_LIMIT:
        sizes = " x ".join(f"{axis.key} ({len(axis.values):,})" for axis in varied)
        raise GridError("grid", f"{cells:,} cells: {sizes}; at most {CELLS_LIMIT:,} are allowed. Vary fewer keys")


def points(varied: Sequence[Axis], *, origin: str) -> list[Point]:
    """The product of the axes. The last axis varies fastest. Without axes there is one point, without a name.

    Args:
        varied: the axes.
        origin: the file that defines the grid, for messages.

    >>> [point.name for point in points([Axis("model.head", {"a": {}}), Axis("seeds", {"0": 0, "1": 1})], origin="")]
    ['head=a,seed=0', 'head=a,seed=1']
    """
    short_keys = _short_keys([axis.key for axis in varied])
    labels_of_axes = [list(axis.values) for axis in varied]
    return [_point(varied, labels, short_keys, origin) for labels in itertools.product(*labels_of_axes)]


def _point(varied: Sequence[Axis], labels: Sequence[str], short_keys: Mapping[str, str], origin: str) -> Point:
    overrides, axis_labels, parts, parts_without_seeds = {}, {}, [], []
    for axis, label in zip(varied, labels, strict=True):
        short_key = short_keys[axis.key]
        overrides[axis.key] = axis.values[label]
        axis_labels[short_key] = str(label)
        part = f"{short_key}={label}"
        parts.append(part)
        if not is_seed(axis.key):
            parts_without_seeds.append(part)
    layer = Layer()
    # `model.head` before `model.head.layers`, which changes it; parts of recipes, which have many keys, before all.
    for key in sorted(overrides, key=lambda key: (key != RECIPE, key.count("."))):
        layer = merge(layer, _axis_layer(key, overrides[key], origin=origin))
    return Point(",".join(parts), ",".join(parts_without_seeds), overrides, layer, axis_labels)


def is_seed(key: str) -> bool:
    """Whether an axis varies seeds, so that its cells are runs of the same recipe. A seed of the data makes other data.

    >>> is_seed("seeds"), is_seed("seeds.init"), is_seed("data.sources.digits.seed")
    (True, True, False)
    """
    return key.partition(".")[0] == SEEDS


def label(value: Any) -> str:
    """The default label of a value: its short text.

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
    """The axis of a key of `grid`, or what is wrong with its key or its values."""
    error = _axis_key_error(key)
    if error is not None:
        return error
    full_key = f"grid.{key}"
    if key == RECIPE and not _is_mapping_of_mappings(values):
        return GridError(full_key, f"expected a mapping of labels to parts of recipes; {shortened(values)} given")
    if not isinstance(values, list | dict) or not values:
        message = f"expected a list of values, or a mapping of labels to values; {shortened(values)} given"
        return GridError(full_key, message)
    if isinstance(values, dict):
        return Axis(key, values)
    return _labelled_axis(key, values)


def _axis_key_error(key: str) -> GridError | None:
    """What is wrong with a key of `grid`; None for a right one."""
    if key == SEEDS:
        return GridError(f"grid.{key}", "seeds are not part of the grid: write `seeds: [0, 1, 2]` beside `grid`")
    # A key of a thousand parts would exceed Python's recursion limit when its layer is merged.
    if key.count(".") >= YAML_DEPTH:
        return GridError("grid", f"a key has at most {YAML_DEPTH} parts; '{shortened(key)}' given")
    problem = key_problem(tuple(key.split("."))) if key != RECIPE else None
    return None if problem is None else GridError(f"grid.{key}", problem)


def _labelled_axis(key: str, values: list[Any]) -> Axis | GridError:
    """The axis of a list of values, each under its default label."""
    labels = [label(value) for value in values]
    # Two values with one label would be one cell, and the sweep would silently miss the other.
    repeated = [text for text, number in Counter(labels).items() if number > 1]
    if repeated:
        return GridError(f"grid.{key}", f"a value is given twice: {', '.join(repeated)}")
    return Axis(key, dict(zip(labels, values, strict=True)))


def _is_mapping_of_mappings(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, dict) for value in values.values())


def _seed_axis(values: list[Any]) -> Axis | GridError:
    # `bool` is a subclass of `int` in Python.
    are_integers = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not are_integers or not values or len(set(values)) < len(values):
        return GridError(SEEDS, f"expected different whole numbers, as in [0, 1, 2]; {shortened(values)} given")
    return Axis(SEEDS, {str(value): value for value in values})


def _axis_layer(key: str, value: Any, *, origin: str) -> Layer:
    if key == SEEDS:
        # One number for all three seeds: a list of seeds asks for independent repetitions of the whole run.
        return layer_at((SEEDS,), dict.fromkeys(SEED_NAMES, value), origin=origin)
    if key == RECIPE:
        # The values of this axis are whole parts of recipes, so that its own name is no key of a recipe.
        return Layer(value, {(): origin})
    return layer_at(tuple(key.split(".")), value, origin=origin)


def _short_keys(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key where no other axis has the same, else the whole key."""
    last = ["seed" if key == SEEDS else key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
