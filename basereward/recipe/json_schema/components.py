"""JSON schemas of nodes: mappings whose `_target_` names a class or function; the other keys are its arguments."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

from basereward.recipe.checks.signature import MISSING, signature_of
from basereward.recipe.checks.targets import SINGULAR, Target, TargetKind, base_class, kinds_of, locate, short_names
from basereward.recipe.json_schema.descriptions import argument_meanings
from basereward.recipe.json_schema.hints import INCLUDE, JsonSchema, hint_schema
from basereward.recipe.nodes import INNER, settable_arguments
from basereward.recipe.yaml.files import read_yaml, shipped_experiments, yaml_files

TARGET = "_target_"
DEFINED: dict[tuple[TargetKind, str], str] = {("stages", "source"): "sources", ("stages", "recipe"): "cell"}
"""Arguments that only an experiment has, and the definition of its schema that they follow."""


def component_schema(kind: TargetKind) -> JsonSchema:
    """The schema of the nodes of a kind.

    The arguments follow from `_target_`, or from the shipped file that the node includes. Those of a class of the user
    are not known and not checked.

    >>> schema = component_schema("heads")
    >>> schema["properties"]["_target_"]["anyOf"][0]["enum"][:2]
    ['critic', 'generative']
    """
    if len(kinds_of(kind)) > 1:
        return _joined_schema(kind)
    arguments = {name: _arguments(name, kind) for name in short_names(kind)}
    included = _included(kind)
    rules = [_rule(_has_target(name), allowed) for name, allowed in arguments.items()]
    for name, files in included.items():
        if name in arguments:
            rules.append(_rule(_includes(files), arguments[name]))
    # Only to complete: a node without `_target_` changes one whose class may be the user's.
    known: JsonSchema = {}
    for allowed in arguments.values():
        known = {name: {"description": schema.get("description", "")} for name, schema in allowed.items()} | known
    rules.append({"if": {"not": {"required": [TARGET]}}, "then": {"properties": known}})
    return {
        "type": "object",
        "properties": {TARGET: _target(kind), "include": INCLUDE},
        "allOf": rules,
    }


def _joined_schema(kind: TargetKind) -> JsonSchema:
    """The schema of a kind whose parts are those of others, by the definitions of these. The first one is for all nodes
    that do not name a part of another one, such as a class of the user."""
    first, *others = kinds_of(kind)
    schema: JsonSchema = {"$ref": f"#/definitions/{first}"}
    for other in others:
        files = [name for names in _included(other).values() for name in names]
        named = {"properties": {TARGET: {"enum": list(short_names(other))}}, "required": [TARGET]}
        condition = {"anyOf": [named, _includes(files)]}
        schema = {"if": condition, "then": {"$ref": f"#/definitions/{other}"}, "else": schema}
    return schema


def _target(kind: TargetKind) -> JsonSchema:
    definitions = short_names(kind)
    # The key is an extension of VS Code's schemas; validators ignore it.
    summaries = [(ast.get_docstring(node) or "").split("\n", maxsplit=1)[0] for node in definitions.values()]
    return {
        "description": f"Name of a {SINGULAR[kind]}, or the dotted path of a class of your own.",
        "anyOf": [
            {"enum": list(definitions), "enumDescriptions": summaries},
            {"type": "string", "pattern": r"\."},
        ],
    }


def _inner_schema(inner: TargetKind, kind: TargetKind) -> JsonSchema:
    """The schema of a node within a node. One of the same kind could hold itself without end, so its arguments are
    left open."""
    return {"type": "object", "properties": {TARGET: _target(kind)}} if inner == kind else component_schema(inner)


def _arguments(name: str, kind: TargetKind) -> dict[str, JsonSchema]:
    """The schema of every argument of a target that a recipe may give."""
    meanings = _meanings(locate(name, kind))
    schemas: dict[str, JsonSchema] = {}
    for argument, parameter in settable_arguments(signature_of(name, kind), name, kind).items():
        schema = hint_schema(parameter.hint)
        if (kind, argument) in DEFINED:
            schema = _defined(DEFINED[kind, argument], parameter.hint)
        elif (kind, argument) in INNER:
            schema = {"anyOf": [_inner_schema(INNER[kind, argument], kind), {"type": "null"}]}
        if argument in meanings:
            schema = {"description": meanings[argument]} | schema
        if parameter.default is not MISSING:
            schema = schema | {"default": parameter.default}
        schemas[argument] = schema
    return schemas


def _defined(name: str, hint: Any) -> JsonSchema:
    """A definition of the schema, or a text or null where the hint allows them too."""
    plain = {str: {"type": "string"}, type(None): {"type": "null"}}
    others = [schema for member, schema in plain.items() if member in get_args(hint)]
    return {"anyOf": [{"$ref": f"#/definitions/{name}"}, *others]}


def _meanings(target: Target) -> dict[str, str]:
    """What the docstring says of each argument, and that of a base class of those that are handed on to it."""
    base = base_class(target)
    inherited = {} if base is None else _meanings(base)
    own = {} if target.definition is None else argument_meanings(ast.get_docstring(target.definition) or "")
    return inherited | own


def _rule(condition: JsonSchema, arguments: dict[str, JsonSchema]) -> JsonSchema:
    """A node that fits the condition has these arguments and no others."""
    properties: JsonSchema = {TARGET: True, "include": True, **arguments}
    return {"if": condition, "then": {"properties": properties, "additionalProperties": False}}


def _has_target(name: str) -> JsonSchema:
    return {"properties": {TARGET: {"const": name}}, "required": [TARGET]}


def _includes(files: list[str]) -> JsonSchema:
    includes = {"properties": {"include": {"enum": files}}, "required": ["include"]}
    return {"allOf": [includes, {"not": {"required": [TARGET]}}]}


def _included(kind: TargetKind) -> dict[str, list[str]]:
    """The names by which shipped files are included, by the target of the file."""
    names: dict[str, list[str]] = defaultdict(list)
    for file, target in _file_targets(kind):
        names[target].append(f"{kind}/{file}")
    return names


def _file_targets(kind: TargetKind) -> Iterator[tuple[str, str]]:
    for file in yaml_files([shipped_experiments() / kind]):
        target: Any = read_yaml(file).get(TARGET)
        if isinstance(target, str):
            yield file.stem, target
