"""Reads overrides `key=value` from the command line or from Python."""

from __future__ import annotations

from collections.abc import Iterable

from basereward.errors import RecipeError, check_several
from basereward.recipe.yaml.files import YAML_DEPTH, parse_value, shortened
from basereward.recipe.yaml.include import COMMAND_LINE, Reader
from basereward.recipe.yaml.merge import KeyPath, Layer, layer_at


def read_overrides(overrides: Iterable[str], *, reader: Reader) -> list[Layer]:
    """One layer for each override, in their order.

    Args:
        overrides: texts `key=value`.
        reader: reads their includes, and gets the faults of overrides that cannot be read.

    Raises:
        RecipeError: `overrides` is one text instead of a list.

    >>> [layer.values for layer in read_overrides(["optimizer.lr=1e-3"], reader=Reader([]))]
    [{'optimizer': {'lr': 0.001}}]
    """
    check_several(overrides, name="overrides", of="texts", error=RecipeError)
    layers = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = split_key(key.strip())
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
        layers.append(reader.expand(layer_at(path, value, origin=COMMAND_LINE).values, origin=COMMAND_LINE))
    return layers


def split_key(key: str) -> KeyPath:
    """The parts of a dotted key. The key of an axis, below `grid`, stays in one part with its dots.

    >>> split_key("grid.optimizer.lr")
    ('grid', 'optimizer.lr')
    """
    head, dot, rest = key.partition(".")
    return (head, rest) if dot and head == "grid" else tuple(key.split("."))
