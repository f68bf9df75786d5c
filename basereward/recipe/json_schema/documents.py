"""The JSON schema of each kind of YAML file: experiments and profiles, parts of `data`, sources and benchmarks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any, get_args, get_origin

from basereward.recipe.checks.ranges import AT_MOST, NOT_NEGATIVE, POSITIVE, SHARES, SHARES_BELOW_ONE
from basereward.recipe.checks.targets import TargetKind, kinds_of
from basereward.recipe.json_schema.components import component_schema
from basereward.recipe.json_schema.descriptions import EXPERIMENT_KEYS, meaning
from basereward.recipe.json_schema.hints import INCLUDE, JsonSchema, hint_schema, with_range
from basereward.recipe.schema import DataRecipe, EnsembleRecipe, Node, Recipe
from basereward.recipe.yaml.keys import NODES, is_section, key_types, node_kind, without_none
from basereward.recipe.yaml.merge import KeyPath

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that the language servers of editors know best."""
NULL: JsonSchema = {"type": "null"}
ENSEMBLE = ("ensembles", "NAME")
"""Where `NAME` stands for any name that the user chooses."""


def experiment_schema() -> JsonSchema:
    """The schema of an experiment, a profile or a mixture.

    >>> schema = experiment_schema()
    >>> schema["definitions"]["trainer"]["properties"]["steps"]["description"]
    'optimizer steps'
    >>> schema["additionalProperties"]
    False
    """
    definitions = _components(NODES.values())
    for name, hint in key_types(Recipe).items():
        if is_section(hint):
            definitions[name] = _section(hint, (name,))
    definitions |= {
        "cell": _section(Recipe, ()),
        "grid": _grid(),
        "ensemble": _section(EnsembleRecipe, ENSEMBLE),
        "stage": component_schema("stages"),
    }
    # A section of a profile has the keys of an experiment, but no profiles of its own.
    properties = definitions["cell"]["properties"] | _experiment_keys()
    definitions["on_profile"] = {"type": "object", "properties": properties, "additionalProperties": False}
    sections = {"type": "object", "additionalProperties": _ref("on_profile")}
    properties = properties | {
        "profiles": {"description": EXPERIMENT_KEYS["profiles.NAME"], **sections},
        "sweep": {"description": EXPERIMENT_KEYS["sweep"], "anyOf": [_ref("cell"), NULL]},
    }
    return {
        "$schema": DRAFT,
        "title": "BaseReward experiment, profile or mixture",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": definitions,
    }


def data_schema() -> JsonSchema:
    """The schema of a file that `data` includes: sources and how they are mixed.

    >>> "mixture" in data_schema()["properties"]
    True
    """
    section = _section(DataRecipe, ("data",))
    definitions = _components(["sources", "references"])
    return {"$schema": DRAFT, "title": "BaseReward data", **section, "definitions": definitions}


def source_schema() -> JsonSchema:
    """The schema of a source.

    >>> source_schema()["title"]
    'BaseReward source'
    """
    return {"$schema": DRAFT, "title": "BaseReward source", **component_schema("sources")}


def benchmark_schema() -> JsonSchema:
    """The schema of a benchmark.

    >>> benchmark_schema()["title"]
    'BaseReward benchmark'
    """
    return {"$schema": DRAFT, "title": "BaseReward benchmark", **component_schema("benchmarks")}


DOCUMENTS: dict[str, Callable[[], JsonSchema]] = {
    "experiment": experiment_schema,
    "data": data_schema,
    "source": source_schema,
    "benchmark": benchmark_schema,
}
"""The schemas by the kind of file."""


def _components(kinds: Iterable[TargetKind]) -> JsonSchema:
    """The definitions of kinds of nodes, and of those that they refer to."""
    needed: set[TargetKind] = set()
    for kind in kinds:
        needed |= {kind, *kinds_of(kind)}
    return {kind: component_schema(kind) for kind in sorted(needed)}


def _ref(name: str) -> JsonSchema:
    # Draft 7 ignores the keys beside `$ref`, such as a description.
    return {"allOf": [{"$ref": f"#/definitions/{name}"}]}


def _experiment_keys() -> JsonSchema:
    """The keys of an experiment that are no part of a cell's recipe."""
    integers = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 1}
    return {
        "seeds": {"description": EXPERIMENT_KEYS["seeds"], "anyOf": [integers, _ref("seeds")]},
        "grid": {"description": EXPERIMENT_KEYS["grid"], "anyOf": [_ref("grid"), NULL]},
        "ensembles": {
            "description": EXPERIMENT_KEYS["ensembles.NAME"],
            "type": "object",
            "additionalProperties": {"anyOf": [_ref("ensemble"), NULL]},
        },
        "stages": {
            "description": EXPERIMENT_KEYS["stages.NAME"],
            "type": "object",
            "additionalProperties": {"anyOf": [_ref("stage"), NULL]},
        },
    }


def _section(section: type, path: KeyPath) -> JsonSchema:
    """The schema of one of the schema's dataclasses."""
    properties: JsonSchema = {"include": INCLUDE}
    for field in dataclasses.fields(section):
        schema = _key(key_types(section)[field.name], (*path, field.name))
        described = meaning(".".join((*path, field.name)), section, field.name)
        default = _default(field)
        properties[field.name] = (
            ({"description": described} if described else {})
            | schema
            | ({} if default is _NONE else {"default": default})
        )
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _key(hint: Any, path: KeyPath) -> JsonSchema:
    """The schema of the value of a key."""
    inner = without_none(hint)
    schema = _without_null(inner, path)
    if inner is hint or schema is None:
        return hint_schema(hint) if schema is None else schema
    return {"anyOf": [schema, NULL]}


def _without_null(hint: Any, path: KeyPath) -> JsonSchema | None:
    """The schema of a section, a node or a mapping of nodes; None for a plain hint."""
    if is_section(hint):
        return _ref(path[0]) if len(path) == 1 else _section(hint, path)
    if hint == Node:
        return _ref(node_kind(path))
    if get_origin(hint) is dict and get_args(hint)[1] == Node:
        # null removes what an included file or the profile brings.
        value = {"anyOf": [_ref(node_kind((*path, "*"))), NULL]}
        return {"anyOf": [{"type": "object", "properties": {"include": INCLUDE}, "additionalProperties": value}, NULL]}
    if get_origin(hint) is dict:
        return {"anyOf": [_with_removal(with_range(hint_schema(hint), _ranges(".".join(path)))), NULL]}
    return with_range(hint_schema(hint), _ranges(".".join(path))) if _ranges(".".join(path)) else None


def _with_removal(schema: JsonSchema) -> JsonSchema:
    """The schema of a mapping whose values may also be null, which removes what an included file or the profile
    brings."""
    if "anyOf" in schema:
        return schema | {"anyOf": [_with_removal(option) for option in schema["anyOf"]]}
    if "additionalProperties" not in schema:
        return schema
    return schema | {"additionalProperties": {"anyOf": [schema["additionalProperties"], NULL]}}


def _ranges(key: str) -> JsonSchema:
    """The limits of the numbers at a key."""
    ranges: JsonSchema = {}
    if key in POSITIVE:
        ranges["exclusiveMinimum"] = 0
    if key in (*NOT_NEGATIVE, *SHARES, *SHARES_BELOW_ONE):
        ranges["minimum"] = 0
    if key in AT_MOST:
        ranges["maximum"] = AT_MOST[key]
    if key in SHARES:
        ranges["maximum"] = 1
    if key in SHARES_BELOW_ONE:
        ranges["exclusiveMaximum"] = 1
    return ranges


_NONE = object()
"""Marks a key whose default is a section, which its own keys show."""


def _default(field: dataclasses.Field[Any]) -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return _NONE if dataclasses.is_dataclass(value) else value


def _grid() -> JsonSchema:
    """The axes: every key of a recipe by its dotted path, and `recipe` for several keys at once."""
    several = {"description": EXPERIMENT_KEYS["grid.recipe"], **_axis(_ref("cell"))}
    properties: JsonSchema = {"include": INCLUDE, "recipe": several}
    patterns: JsonSchema = {}
    _add_axes(Recipe, (), properties, patterns)
    # Seeds are an axis by themselves: `seeds: [0, 1]`.
    del properties["seeds"]
    return {
        "type": "object",
        "properties": properties,
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _add_axes(section: type, path: KeyPath, properties: JsonSchema, patterns: JsonSchema) -> None:
    for name, hint in key_types(section).items():
        key, inner = (*path, name), without_none(hint)
        dotted = ".".join(key)
        if is_section(inner):
            # The keys of an inner section are checked where it stands; here they would make the schema twice as long.
            properties[dotted] = _axis(_ref(name) if not path else {"type": "object"})
            _add_axes(inner, key, properties, patterns)
            continue
        properties[dotted] = _axis(_key(hint, key))
        if inner == Node or get_origin(inner) is dict:
            # Arguments of a node, and names that the user chooses.
            patterns[f"^{re.escape(dotted)}\\..+"] = _axis({})


def _axis(value: JsonSchema) -> JsonSchema:
    listed = {"type": "array", "items": value, "minItems": 1}
    labelled = {"type": "object", "additionalProperties": value, "minProperties": 1}
    return {"anyOf": [listed, labelled, NULL]}
