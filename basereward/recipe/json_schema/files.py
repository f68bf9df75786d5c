"""Writes a JSON schema to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError
from basereward.io.files import write_atomic
from basereward.io.limits import read_text
from basereward.recipe.json_schema.hints import JsonSchema

TITLE = "BaseReward "
"""The title of each of our schemas begins so."""
LIMIT = 16 * 2**20
"""Most bytes of a file that may be an earlier schema."""


def write_schema(schema: JsonSchema, path: Path) -> None:
    """Writes a schema. Only an earlier schema of ours is replaced.

    Raises:
        RecipeError: the path is another file, or a folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "source.json"
    >>> write_schema({"title": "BaseReward source"}, path)
    >>> path.read_text()
    '{\\n "title": "BaseReward source"\\n}\\n'
    """
    if path.exists() and not _is_ours(path):
        raise RecipeError(f"--out '{path}' exists and is no schema of ours; give another path")
    if not path.parent.is_dir():
        raise RecipeError(f"--out '{path}': there is no folder '{path.parent}'; make it, or give another path")
    write_atomic(path, json.dumps(schema, indent=1) + "\n")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content: Any = json.loads(read_text(path, limit=LIMIT, error=RecipeError))
    except ValueError:
        return False
    return isinstance(content, dict) and str(content.get("title", "")).startswith(TITLE)
