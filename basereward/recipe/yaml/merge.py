"""Layers of a recipe, and the merge of one layer over another."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

KeyPath: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """A nested mapping that knows where each of its keys was written.

    Attributes:
        values: the nested mapping.
        origins: the file, or the command line, by the path of a key. It holds for all keys below that path, except
            those with an entry of their own.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` was written; empty for a default.

        >>> Layer({"optimizer": {"lr": 1}}, {("optimizer",): "one.yaml"}).origin(("optimizer", "lr"))
        'one.yaml'
        """
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""

    def without(self, key: str) -> Layer:
        """The layer without one of its top-level keys."""
        return Layer(
            {name: value for name, value in self.values.items() if name != key},
            {path: origin for path, origin in self.origins.items() if path[:1] != (key,)},
        )


def layer_at(path: KeyPath, value: Any, *, origin: str) -> Layer:
    """A layer that sets one value.

    >>> layer_at(("optimizer", "lr"), 1e-3, origin="here").values
    {'optimizer': {'lr': 0.001}}
    """
    for key in reversed(path):
        value = {key: value}
    return Layer(value, {path: origin})


def merge(base: Layer, top: Layer) -> Layer:
    """`top` over `base`: mappings are merged key by key, anything else is replaced.

    A node (a mapping with `_target_`) whose `_target_` changes is replaced: its arguments belong to the old one.

    >>> mlp = Layer({"head": {"_target_": "mlp", "layers": 2}})
    >>> merge(mlp, Layer({"head": {"layers": 3}})).values
    {'head': {'_target_': 'mlp', 'layers': 3}}
    >>> merge(mlp, Layer({"head": {"_target_": "linear"}})).values
    {'head': {'_target_': 'linear'}}
    """
    # A layer is a node itself where a single source or benchmark is loaded.
    if _replaces(base.values, top.values):
        return top
    origins = dict(base.origins)
    return Layer(_merged(base.values, top.values, (), top, origins), origins)


def _merged(
    base: Mapping[str, Any], top: Mapping[str, Any], path: KeyPath, layer: Layer, origins: dict[KeyPath, str]
) -> dict[str, Any]:
    result = dict(base)
    for key, value in top.items():
        key_path = (*path, key)
        old = result.get(key)
        # Lists are replaced, not appended to: otherwise no file could remove an item of an included one.
        if isinstance(old, dict) and isinstance(value, dict) and not _replaces(old, value):
            result[key] = _merged(old, value, key_path, layer, origins)
            continue
        result[key] = copy.deepcopy(value)
        # The origins of replaced keys would name a file in which the new value is not.
        for replaced in [other for other in origins if _is_at_or_below(other, key_path)]:
            del origins[replaced]
        for other, origin in layer.origins.items():
            if _is_at_or_below(other, key_path):
                origins[other] = origin
        origins[key_path] = layer.origin(key_path)
    return result


def _is_at_or_below(path: KeyPath, ancestor: KeyPath) -> bool:
    return path[: len(ancestor)] == ancestor


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both are nodes and their targets are different."""
    return "_target_" in old and "_target_" in new and old["_target_"] != new["_target_"]
