"""A file that holds one JSON value with all rows, as some data sets are published; it is read whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from basereward.data.readers.json_lines import check_rows_file, check_unicode, read_line
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.io.limits import JSON_DEPTH, nested_deeper, read_text

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**30
"""Of a file that is read whole; its rows take several times as much memory. Larger ones are given as JSON Lines."""

MARKS_OF_PARTS = ("role", "from", "type")
"""Keys of messages and of their parts: a list of objects that have one belongs to a row, and holds no rows."""

MARKS_OF_ROWS = frozenset({"prompt", "chosen", "rejected", "responses", "ranking", "preferences", "instruction"})
"""Columns of a row: an object that has one is a row itself, whatever lists of objects (`tools`) stand beside it."""


class JsonArray:
    """The rows of `[row, row, ...]`, of `{"data": [row, row, ...]}` under any key, or the one row of `{...}`.

    A place is an index, and so is its number.

    Args:
        path: the file.
        name: what messages call it; by default its path.
    """

    def __init__(self, path: str | Path, *, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = Path(path if name is None else name)

    @property
    def label(self) -> str:
        return str(self.name)

    def scan(self) -> Iterator[tuple[int, int, object]]:
        for index, row in enumerate(self.rows):
            yield index, index, row

    def read(self, place: int) -> object:
        return self.rows[place]

    def decode(self, raw: object) -> object:
        check_unicode(raw)
        if nested_deeper(raw, JSON_DEPTH):
            raise RowRejected("malformed_json", f"not usable: JSON nested deeper than {JSON_DEPTH} levels")
        return raw

    def where(self, number: int) -> str:
        return f"{self.name}, row {number}"

    def row_id(self, number: int) -> str:
        return f"{self.name.name}:{number}"

    def __getstate__(self) -> dict[str, Path]:
        # A loader's process reads the file itself, in place of getting all rows.
        return {"path": self.path, "name": self.name}

    @cached_property
    def rows(self) -> list[object]:
        """
        Raises:
            DataError: the file cannot be read, is too large, is not JSON, or holds no rows.
        """
        check_rows_file(self.path)
        try:
            value = json.loads(read_text(self.path, limit=MAX_FILE_BYTES))
        except json.JSONDecodeError as error:
            raise DataError(f"cannot read {self.name}: {error}{_advice(error)}") from error
        except (ValueError, RecursionError) as error:  # too large, not UTF-8, nested too deeply
            raise DataError(f"cannot read {self.name}: {error}. JSON Lines, one row a line, have no limit") from error
        if isinstance(value, list):
            return value
        if not isinstance(value, dict):
            raise DataError(f"{self.name} holds {type(value).__name__}; an array of rows, or one row a line, is needed")
        key = rows_key(value, name=self.name)
        if key is None:
            return [value]
        others = [other for other in value if other != key]
        if others:
            logger.warning("%s: the rows are those of '%s'; not read: %s", self.name, key, ", ".join(others))
        rows: list[object] = value[key]
        return rows


def rows_key(value: dict[str, Any], *, name: str | Path) -> str | None:
    """The key of an object that holds rows; None where the object is a row itself.

    >>> rows_key({"version": 1, "data": [{"prompt": "Q"}]}, name="a.json")
    'data'
    >>> rows_key({"prompt": [{"role": "user", "content": "Q"}], "chosen": "a"}, name="a.json") is None
    True
    >>> rows_key({"prompt": "Q", "chosen": "a", "rejected": "b", "tools": [{"name": "add"}]}, name="a.json") is None
    True

    Raises:
        DataError: it holds several lists of rows.
    """
    keys = [key for key, inner in value.items() if _holds_rows(inner)]
    if any(MARKS_OF_ROWS.intersection(value) - {key} for key in keys):
        return None
    if len(keys) > 1:
        listed = ", ".join(keys)
        raise DataError(f"{name} holds an object with several lists of rows: {listed}; give each a file of its own")
    return keys[0] if keys else None


def _holds_rows(value: object) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return all(isinstance(row, dict) and not any(mark in row for mark in MARKS_OF_PARTS) for row in value[:100])


def _advice(error: json.JSONDecodeError) -> str:
    if error.msg != "Extra data":
        return ""
    return ". It holds several JSON values over several lines; write each on a line of its own, as `jq -c .` does"


def one_json_value(path: Path, *, name: str | Path) -> JsonArray | None:
    """The table of a file that holds one JSON value; None where its lines are rows, or faulty rows.

    JSON that is laid out over several lines is told from a first row that is cut by reading the whole file.

    Raises:
        DataError: the file cannot be read, or begins like one value and is none.
    """
    first, more = _first_line(path)
    table = JsonArray(path, name=name)
    if first.strip() in ("[", "{", "[{"):
        _ = table.rows  # no row is that short: what is wrong with the one value is the fault
        return table
    if not first or first[0] not in "[{":
        return None
    try:
        value = json.loads(first)
    except json.JSONDecodeError as error:
        return _if_whole(table) if error.pos >= len(first) else None
    except (ValueError, RecursionError):
        return None
    if more:
        return None
    holds_rows = isinstance(value, list) or rows_key(value, name=name) is not None
    return table if holds_rows else None


def _if_whole(table: JsonArray) -> JsonArray | None:
    try:
        _ = table.rows
    except DataError:
        return None
    return table


def _first_line(path: Path) -> tuple[str, bool]:
    """The first line that is not blank, and whether another comes after it."""
    check_rows_file(path)
    found: str | None = None
    try:
        with path.open("rb") as file:
            while line := read_line(file):
                if not line.strip():
                    continue
                if found is not None:
                    return found, True
                found = line.decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return found or "", False
