"""The keys that a recipe may have, and what kind of node stands where."""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from basereward.errors import unknown
from basereward.recipe.checks.targets import TargetKind
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.yaml.merge import KeyPath

# `*` is any name of the user's.
NODES: dict[KeyPath, TargetKind] = {
    ("model", "head"): "heads",
    ("model", "backbone", "make"): "makers",
    ("loss",): "losses",
    ("data", "sources", "*"): "sources",
    ("data", "curation", "against", "*"): "sources",
}


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """The type of every key of a section of the schema."""
    return get_type_hints(section)


def required(hint: Any) -> Any:
    """The hint without `| None`."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    members = [member for member in get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 else hint


def is_section(hint: Any) -> bool:
    """Whether the hint is one of the schema's dataclasses."""
    return dataclasses.is_dataclass(hint)


def node_kind(path: KeyPath) -> TargetKind:
    """Which extension folder the short names at a key mean."""
    if path in NODES:
        return NODES[path]
    return NODES[(*path[:-1], "*")]


def key_problem(path: KeyPath) -> str | None:
    """What is wrong with a key, or None. Below a node, and where names are the user's, every key is right.

    >>> key_problem(("optimizer", "lr")), key_problem(("data", "sources", "mine", "path"))
    (None, None)
    >>> key_problem(("modelx", "head"))[:46]
    "unknown key 'modelx'; did you mean 'model'? Al"
    """
    hint: Any = Recipe
    for depth, key in enumerate(path):
        hint = required(hint)
        if is_section(hint):
            if key not in hints(hint):
                return unknown("key", key, hints(hint))
            hint = hints(hint)[key]
        elif hint == Node:
            return None
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            return f"'{'.'.join(path[:depth])}' is a value, it has no key '{key}'"
    return None
