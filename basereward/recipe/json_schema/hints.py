"""JSON schemas (draft 7) of the values that a type hint allows."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from basereward.recipe.checks.hints import LISTS, range_limits

JsonSchema: TypeAlias = dict[str, Any]

TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    None: "null",
}
KEYWORDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
INCLUDE: JsonSchema = {
    "description": "A file, or a list of files, that is merged in before this mapping.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def hint_schema(hint: Any) -> JsonSchema:
    """The schema of a hint. A class, which has no counterpart in YAML, allows every value.

    Every value may be a reference such as `${trainer.steps}` instead.

    >>> hint_schema(str), hint_schema(Any)
    ({'type': 'string'}, {})
    >>> hint_schema(int)["anyOf"][0]
    {'type': 'integer'}
    """
    options = _options(hint)
    # Text allows a reference already.
    if {} in options or {"type": "string"} in options:
        return {} if {} in options else _any_of(options)
    return _any_of([*options, {"type": "string", "pattern": r"\$\{"}])


def with_range(schema: JsonSchema, ranges: JsonSchema) -> JsonSchema:
    """The schema with limits on all of its numbers: itself, its options, its items and the values of its names.

    >>> with_range({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"minimum": 1})
    {'anyOf': [{'type': 'integer', 'minimum': 1}, {'type': 'null'}]}
    """
    if schema.get("type") in ("integer", "number"):
        return schema | ranges
    limited = dict(schema)
    if "anyOf" in schema:
        limited["anyOf"] = [with_range(option, ranges) for option in schema["anyOf"]]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            limited[key] = with_range(schema[key], ranges)
    return limited


def _any_of(options: list[JsonSchema]) -> JsonSchema:
    return options[0] if len(options) == 1 else {"anyOf": options}


def _options(hint: Any) -> list[JsonSchema]:
    """The schemas of which a value has to fit one."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        options = []
        for member in get_args(hint):
            options += _options(member)
        return options
    convert = CONVERSIONS.get(origin) if isinstance(origin, type) or origin in CONVERSIONS else None
    if convert is not None:
        return [convert(hint)]
    # A hint of another kind, such as a class.
    return [{"type": TYPES[origin]} if origin in TYPES else {}]


def _annotated(hint: Any) -> JsonSchema:
    (inner, *_) = get_args(hint)
    ranges = {KEYWORDS[name]: limit for name, limit in range_limits(hint).items()}
    return with_range(_any_of(_options(inner)), ranges)


def _enum(hint: Any) -> JsonSchema:
    return {"enum": list(get_args(hint))}


def _array(hint: Any) -> JsonSchema:
    items = [argument for argument in get_args(hint) if argument is not ...]
    if (get_origin(hint) or hint) is tuple and ... not in get_args(hint) and items:
        return {"type": "array", "items": [hint_schema(item) for item in items], "minItems": len(items)}
    return {"type": "array", **({"items": hint_schema(items[0])} if items else {})}


def _mapping(hint: Any) -> JsonSchema:
    value = hint_schema(get_args(hint)[1]) if get_args(hint) else {}
    return {"type": "object", "properties": {"include": INCLUDE}, "additionalProperties": value}


CONVERSIONS: dict[Any, Callable[[Any], JsonSchema]] = {
    Annotated: _annotated,
    Literal: _enum,
    **dict.fromkeys(LISTS, _array),
    dict: _mapping,
}
"""The schemas of hints that contain other hints or values, by their origin."""
