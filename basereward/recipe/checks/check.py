"""Checks every value of a recipe against the schema, and every node against its target."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_origin

from basereward.errors import unknown
from basereward.recipe.checks.hints import HintMismatch, coerce, mismatch
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.yaml.files import shortened
from basereward.recipe.yaml.keys import is_section, key_types, keys_named, node_kind, without_none
from basereward.recipe.yaml.merge import KeyPath, Layer


class Check:
    """The check of one layer, which is done by the constructor.

    Args:
        layer: the values of the recipe, with interpolations resolved.
        complete: False when a file could not be read. Missing keys may be in that file, so only given ones are checked.
        nodes: whether to check nodes against their targets.

    Attributes:
        values: the right values; a key with a fault is left out, so that the default of the schema stands in for it.
        faults: pairs of a dotted key and a message.

    >>> check = Check(Layer({"optimizer": {"lr": "high"}}), complete=False)
    >>> check.faults
    [('optimizer.lr', "expected a number; 'high' given")]
    """

    def __init__(self, layer: Layer, *, complete: bool = True, nodes: bool = True) -> None:
        self.faults: list[tuple[str, str]] = []
        self._layer = layer
        self._complete = complete
        self._nodes = nodes
        self.values = self._section(Recipe, layer.values, ())

    def _add_fault(self, path: KeyPath, message: str) -> None:
        origin = self._layer.origin(path)
        self.faults.append((".".join(path), f"{message} ({origin})" if origin else message))

    def _section(self, section: Any, values: Any, path: KeyPath) -> dict[str, Any]:
        if not isinstance(values, dict):
            self._add_fault(path, f"expected a mapping of {', '.join(key_types(section))}; {shortened(values)} given")
            return {}
        known = key_types(section)
        # `include` works in every mapping, and `grid` only at the top level of a file.
        allowed = [*known, "include"] if path else [*known, "include", "grid"]
        for key in values:
            if key not in known:
                self._add_fault((*path, key), unknown("key", key, allowed) + _elsewhere(key))
        checked = {}
        for field in dataclasses.fields(section):
            hint, field_path = known[field.name], (*path, field.name)
            if field.name in values:
                checked.update(self._value(field.name, hint, values[field.name], field_path))
            elif hint == Node:
                self._node({}, field_path)
            elif is_section(hint):
                # A section may contain a node, which has no default and must be reported as missing.
                checked[field.name] = self._section(hint, {}, field_path)
        return checked

    def _value(self, key: str, hint: Any, value: Any, path: KeyPath) -> dict[str, Any]:
        """`{key: value}` for a right value, else `{}`."""
        inner = without_none(hint)
        if value is None and inner is not hint:
            return {key: None}
        if is_section(inner):
            return {key: self._section(inner, value, path)}
        if inner == Node:
            return {key: self._node(value, path)}
        if get_origin(inner) is dict:
            return {key: self._named(get_args(inner)[1], value, path)}
        try:
            return {key: coerce(value, hint)}
        except HintMismatch as error:
            self._add_fault(path, str(error))
            return {}

    def _named(self, hint: Any, values: Any, path: KeyPath) -> dict[str, Any]:
        """A mapping with names that the user chose; null removes a name that an included file has, or all of them."""
        if values is None:
            return {}
        if not isinstance(values, dict):
            self._add_fault(path, str(mismatch(values, dict[str, hint])))
            return {}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if value is not None:
                checked.update(self._value(name, hint, value, (*path, name)))
        return checked

    def _node(self, node: Any, path: KeyPath) -> Node:
        if not self._nodes and isinstance(node, dict):
            return node
        filled, faults = check_node(node, node_kind(path))
        for key, message in faults:
            # A missing argument may be in the included file that could not be read.
            missing = isinstance(node, dict) and (key or "_target_") not in node
            if self._complete or not missing:
                self._add_fault((*path, key) if key else path, message)
        return filled


def _elsewhere(key: str) -> str:
    """The full keys that end with the given one, which is the most common reason why a key is unknown."""
    full_keys = keys_named(key)
    return f" Did you mean {' or '.join(full_keys)}?" if full_keys else ""
