"""Every value of a recipe against the schema, and every node against its target."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args, get_origin

from basereward.errors import unknown
from basereward.recipe.checks.hints import Misfit, fit, misfit
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.yaml.files import shortened
from basereward.recipe.yaml.keys import hints, is_section, node_kind, required
from basereward.recipe.yaml.merge import KeyPath, Layer


class Check:
    """Goes through a layer once; then `values` holds what is right in it, and `faults` what is not, as (key, message).

    Args:
        layer: the recipe's values, interpolations resolved.
        complete: False when a file could not be read, where the missing may stand: only what is given is checked.
        nodes: whether to check nodes against their targets.
    """

    def __init__(self, layer: Layer, *, complete: bool = True, nodes: bool = True) -> None:
        self.faults: list[tuple[str, str]] = []
        self._layer = layer
        self._complete = complete
        self._nodes = nodes
        self.values = self._section(Recipe, layer.values, ())

    def _tell(self, path: KeyPath, message: str) -> None:
        origin = self._layer.origin(path)
        self.faults.append((".".join(path), f"{message} ({origin})" if origin else message))

    def _section(self, section: Any, values: Any, path: KeyPath) -> dict[str, Any]:
        if not isinstance(values, dict):
            self._tell(path, f"expected a mapping of {', '.join(hints(section))}; {shortened(values)} given")
            return {}
        known = hints(section)
        words = [*known, "include"] if path else [*known, "include", "grid"]
        for key in values:
            if key not in known:
                self._tell((*path, key), unknown("key", key, words))
        checked = {}
        for field in dataclasses.fields(section):
            at = (*path, field.name)
            if field.name in values:
                checked.update(self._value(field.name, known[field.name], values[field.name], at))
            elif known[field.name] == Node:
                self._node({}, at)
            elif is_section(known[field.name]):  # a node below it may be missing
                checked[field.name] = self._section(known[field.name], {}, at)
        return checked

    def _value(self, key: str, hint: Any, value: Any, path: KeyPath) -> dict[str, Any]:
        """`{key: value}` when it is right, else `{}`: the default then stands in, so that the rest can be checked."""
        inner = required(hint)
        if value is None and inner is not hint:
            return {key: None}
        if is_section(inner):
            return {key: self._section(inner, value, path)}
        if inner == Node:
            return {key: self._node(value, path)}
        if get_origin(inner) is dict:
            return {key: self._named(get_args(inner)[1], value, path)}
        try:
            return {key: fit(value, hint)}
        except Misfit as error:
            self._tell(path, str(error))
            return {}

    def _named(self, hint: Any, values: Any, path: KeyPath) -> dict[str, Any]:
        """A mapping whose names are the user's; null takes a name out that was included."""
        if not isinstance(values, dict):
            self._tell(path, str(misfit(values, dict[str, hint])))
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
            missing = isinstance(node, dict) and (key or "_target_") not in node
            if self._complete or not missing:
                self._tell((*path, key) if key else path, message)
        return filled
