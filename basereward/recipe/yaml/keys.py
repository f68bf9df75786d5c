"""The keys that a recipe may have, and the kind of node at each key that has one."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

from basereward.errors import unknown
from basereward.recipe.checks.targets import TargetKind
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.yaml.merge import KeyPath

# `*` stands for any name that the user chooses.
NODES: dict[KeyPath, TargetKind] = {
    ("model", "head"): "heads",
    ("model", "backbone", "make"): "tiny_models",
    ("loss",): "losses",
    ("objective",): "objectives",
    ("launcher",): "launchers",
    ("data", "sources", "*"): "sources",
    ("data", "curation", "against", "*"): "references",
}


@functools.cache
def key_types(section: type) -> dict[str, Any]:
    """The type hint of every key of a section of the schema. Cached, because each cell of a sweep asks for all.

    >>> key_types(Recipe)["name"]
    <class 'str'>
    """
    return get_type_hints(section)


def without_none(hint: Any) -> Any:
    """The hint without `| None`; a union of several other types stays as it is.

    >>> without_none(int | None), without_none(int | str)
    (<class 'int'>, int | str)
    """
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 else hint


def is_section(hint: Any) -> bool:
    """Whether the hint is one of the schema's dataclasses.

    >>> is_section(Recipe), is_section(int)
    (True, False)
    """
    return dataclasses.is_dataclass(hint)


def node_kind(path: KeyPath) -> TargetKind:
    """The extension folder in which the short names at a key are looked up.

    >>> node_kind(("model", "head")), node_kind(("data", "sources", "digits"))
    ('heads', 'sources')
    """
    if path in NODES:
        return NODES[path]
    return NODES[(*path[:-1], "*")]


def key_problem(path: KeyPath) -> str | None:
    """What is wrong with a key; None for a right one. Below a node, and where the user chooses names, all are right.

    >>> key_problem(("optimizer", "lr")), key_problem(("data", "sources", "mine", "path"))
    (None, None)
    >>> key_problem(("modelx", "head"))[:46]
    "unknown key 'modelx'; did you mean 'model'? Al"
    """
    hint: Any = Recipe
    for depth, key in enumerate(path):
        hint = without_none(hint)
        if is_section(hint):
            if key not in key_types(hint):
                return unknown("key", key, key_types(hint))
            hint = key_types(hint)[key]
        elif hint == Node:
            return None
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            return f"'{'.'.join(path[:depth])}' is a value, it has no key '{key}'"
    return None


def keys_named(name: str) -> list[str]:
    """The dotted keys of the schema whose last part is a name.

    >>> keys_named("lr"), keys_named("rank"), keys_named("epoch")
    (['optimizer.lr'], ['model.lora.rank'], [])
    """
    return [".".join(path) for path in _paths(Recipe, ()) if path[-1] == name]


def _paths(section: type, path: KeyPath) -> Iterator[KeyPath]:
    """The paths of all keys of a section and of the sections in it."""
    for key, hint in key_types(section).items():
        inner = without_none(hint)
        if is_section(inner):
            yield from _paths(inner, (*path, key))
        else:
            yield (*path, key)
