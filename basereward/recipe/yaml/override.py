"""Reads overrides `key=value` from the command line or from Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from basereward.errors import RecipeError, check_several
from basereward.recipe.yaml.files import YAML_DEPTH, parse_value, shortened
from basereward.recipe.yaml.include import COMMAND_LINE, Reader
from basereward.recipe.yaml.merge import KeyPath, Layer, layer_at

GRID = "grid"
"""The key of an experiment's axes."""


@dataclass(frozen=True)
class Override:
    """One override.

    Attributes:
        layer: the value at its key.
        adds: it was written `+grid...`, and adds to the grid; one without the sign replaces.
        is_whole_grid: it is `grid={...}`, with all axes.

    >>> Override(Layer({"grid": {"optimizer.lr": [1e-3]}}), adds=True).axes
    {'optimizer.lr': [0.001]}
    """

    layer: Layer
    adds: bool = False
    is_whole_grid: bool = False

    @property
    def axes(self) -> dict[str, Any]:
        """The axes of the grid that it sets."""
        grid = self.layer.values.get(GRID)
        return grid if isinstance(grid, dict) else {}


def read_overrides(overrides: Iterable[str], *, reader: Reader) -> list[Override]:
    """Read overrides, in their order.

    Args:
        overrides: texts `key=value`; `+grid.key=values` and `+grid={...}` add axes.
        reader: reads their includes, and gets the faults of overrides that cannot be read.

    Raises:
        RecipeError: `overrides` is one text instead of a list.

    >>> (override,) = read_overrides(["optimizer.lr=1e-3"], reader=Reader([]))
    >>> override.layer.values
    {'optimizer': {'lr': 0.001}}
    """
    check_several(overrides, name="overrides", of="texts", error=RecipeError)
    read = []
    for override in overrides:
        key, equals, text = override.partition("=")
        adds = key.strip().startswith("+")
        path = split_key(key.strip().removeprefix("+"))
        if adds and path[0] != GRID:
            reader.add_fault(
                key, f"+ adds an axis to the grid, as in +grid.optimizer.lr=[1e-3,1e-4]; write {key[1:]}=... to set a "
                f"value ({COMMAND_LINE})",
            )  # fmt: skip
            continue
        if not equals or not all(path):
            reader.add_fault(
                key,
                f"an override is KEY=VALUE, as in optimizer.lr=1e-3; '{shortened(override)}' given ({COMMAND_LINE})",
            )
            continue
        # The key of an axis is one part with dots, see `split_key`, so its dots are counted too.
        if sum(part.count(".") + 1 for part in path) > YAML_DEPTH:
            reader.add_fault(shortened(key), f"a key has at most {YAML_DEPTH} parts ({COMMAND_LINE})")
            continue
        try:
            value = parse_value(text)
        except ValueError as error:
            reader.add_fault(key, f"{error} ({COMMAND_LINE})")
            continue
        # An override may include files, as in `data.sources.mine={include: sources/digits}`.
        layer = reader.expand(layer_at(path, value, origin=COMMAND_LINE).values, origin=COMMAND_LINE)
        read.append(Override(layer, adds=adds, is_whole_grid=path == (GRID,)))
    return read


def split_key(key: str) -> KeyPath:
    """The parts of a dotted key. The key of an axis, below `grid`, stays in one part with its dots.

    >>> split_key("grid.optimizer.lr")
    ('grid', 'optimizer.lr')
    """
    head, dot, rest = key.partition(".")
    return (head, rest) if dot and head == GRID else tuple(key.split("."))
