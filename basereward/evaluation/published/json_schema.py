"""The JSON schema of a table of `experiments/published`, by which editors complete and check its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.evaluation.published.published_file import (
    CELL_MAY,
    COLUMN,
    COLUMN_MAY,
    ENTRY,
    ENTRY_MAY,
    FILE,
    FILE_MAY,
    PAPER,
)
from basereward.recipe.json_schema.documents import DRAFT
from basereward.recipe.json_schema.hints import JsonSchema, hint_schema


def published_schema() -> JsonSchema:
    """The schema of a table.

    >>> published_schema()["required"]
    ['paper', 'columns', 'rows']
    """
    table = _mapping(FILE, FILE_MAY)
    properties = table["properties"]
    properties["paper"] = _mapping(PAPER, {})
    properties["columns"] = {"type": "object", "additionalProperties": _mapping(COLUMN, COLUMN_MAY)}
    entry = _mapping(ENTRY, ENTRY_MAY)
    entry["properties"]["cells"] = {"type": "object", "additionalProperties": _mapping({}, CELL_MAY)}
    for section in ("corrections", "recomputed"):
        properties[section] = {"type": "array", "items": entry}
    return {"$schema": DRAFT, "title": "BaseReward published table", **table}


def _mapping(required: Mapping[str, Any], optional: Mapping[str, Any]) -> JsonSchema:
    properties = {key: hint_schema(hint) for key, hint in {**required, **optional}.items()}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
