"""Reads a file with one JSON value that contains all rows; the whole file is loaded into memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from basereward.data.readers import FileTable
from basereward.data.readers.json_lines import check_rows_file, check_unicode, parse_json, read_line
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, sentence
from basereward.io.limits import JSON_DEPTH, nested_deeper, read_text

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**30
"""The largest file, in bytes. The parsed rows take several times as much memory. Larger files must be JSON Lines."""

MARKS_OF_PARTS = frozenset({"role", "from", "type"})
"""Keys of messages and of their parts: a list of objects with such a key is part of a row, not a list of rows."""

MARKS_OF_ROWS = frozenset(
    {
        "prompt", "chosen", "rejected", "responses", "ranking", "preferences", "instruction", "context", "question",
        "query", "messages", "conversations", "history", "generations",
    }
)  # fmt: skip
"""Columns of a row: an object with one of them is a row itself, even if it also contains lists of objects (`tools`)."""


class JsonArray(FileTable):
    """The rows of `[row, row, ...]`, of `{"data": [row, row, ...]}` under any key, or the one row of `{...}`.

    Places and numbers are indices.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows.json"
    ...     _ = file.write_text('{"data": [{"prompt": "1 + 1?"}, {"prompt": "2 + 2?"}]}')
    ...     [row for _, _, row in JsonArray(file).scan()]
    [{'prompt': '1 + 1?'}, {'prompt': '2 + 2?'}]
    """

    def scan(self) -> Iterator[tuple[int, int, object]]:
        """Yield the parsed rows."""
        for index, row in enumerate(self.rows):
            yield index, index, row

    def read(self, place: int) -> object:
        """Return the parsed row with index `place`."""
        return self.rows[place]

    def decode(self, raw: object) -> object:
        """Check a parsed row: its texts are valid Unicode, and it is not nested too deeply."""
        # Here instead of when the file is parsed, so that one bad row does not make the whole file unusable.
        check_unicode(raw)
        if nested_deeper(raw, JSON_DEPTH):
            raise RowRejected("malformed_json", f"not usable: JSON nested deeper than {JSON_DEPTH} levels")
        return raw

    def where(self, number: int) -> str:
        """Return the file and the index, since the lines of such a file say nothing about its rows."""
        return f"{self.name}, row {number}"

    def __getstate__(self) -> dict[str, Path]:
        # Without the cached rows: a worker process reads the file again, which is cheaper than receiving all rows.
        return {"path": self.path, "name": self.name}

    @cached_property
    def rows(self) -> list[object]:
        """All rows of the file.

        Raises:
            DataError: the file cannot be read, is too large, is not JSON, or contains no rows.
        """
        check_rows_file(self.path)
        try:
            value = parse_json(read_text(self.path, limit=MAX_FILE_BYTES))
        except json.JSONDecodeError as error:
            raise DataError(f"cannot read {self.name}: {error}{_advice(error)}") from error
        except (ValueError, RecursionError) as error:
            # The file is too large, not UTF-8, or nested too deeply; or an object has a key twice.
            raise DataError(
                f"cannot read {self.name}: {sentence(error)} JSON Lines (one row per line) has no limit of the file, "
                "and a row that cannot be read there is listed without stopping the others"
            ) from error
        if isinstance(value, list):
            return value
        if not isinstance(value, dict):
            raise DataError(
                f"{self.name} contains {type(value).__name__}; an array of rows, or one row per line, is needed"
            )
        key = rows_key(value, name=self.name)
        if key is None:
            return [value]
        others = [other for other in value if other != key]
        if others:
            logger.warning("%s: the rows are read from the key '%s'; not read: %s", self.name, key, ", ".join(others))
        rows: list[object] = value[key]
        return rows


def rows_key(value: dict[str, Any], *, name: str | Path) -> str | None:
    """Find the key of an object that contains the rows; None if the object is a row itself.

    >>> rows_key({"version": 1, "data": [{"prompt": "Q"}]}, name="a.json")
    'data'
    >>> rows_key({"prompt": [{"role": "user", "content": "Q"}], "chosen": "a"}, name="a.json") is None
    True
    >>> rows_key({"prompt": "Q", "chosen": "a", "rejected": "b", "tools": [{"name": "add"}]}, name="a.json") is None
    True

    Raises:
        DataError: the object contains several lists of rows.
    """
    keys = [key for key, inner in value.items() if _holds_rows(inner)]
    if any(MARKS_OF_ROWS.intersection(value) - {key} for key in keys):
        return None
    if len(keys) > 1:
        listed = ", ".join(keys)
        raise DataError(
            f"{name} contains an object with several lists of rows: {listed}; write each list to a file of its own"
        )
    return keys[0] if keys else None


def _holds_rows(value: object) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    # The first rows are enough to distinguish rows from messages; a file may have millions.
    return all(isinstance(row, dict) and MARKS_OF_PARTS.isdisjoint(row) for row in value[:100])


def _advice(error: json.JSONDecodeError) -> str:
    """Return what to do about a fault of the JSON, if it is a common one."""
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
        return ". The file ends within a row; it was truncated, for example by an aborted download: get it again"
    if error.msg != "Extra data":
        return ""
    return ". The file contains several JSON values over several lines; write one per line, as with `jq -c .`"


def one_json_value(path: Path, *, name: str | Path) -> JsonArray | None:
    """Open a file that contains one JSON value; None if its lines are rows (JSON Lines), valid or not.

    If the first line is incomplete JSON, the whole file is read to distinguish one value that is laid out over several
    lines from a truncated first row.

    Raises:
        DataError: the file cannot be read, or begins like one JSON value but is not valid.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows.json"
    ...     _ = file.write_text('[\\n{"prompt": "1 + 1?"}\\n]')
    ...     print(one_json_value(file, name="rows.json").rows)
    ...     _ = file.write_text('{"prompt": "1 + 1?"}\\n{"prompt": "2 + 2?"}\\n')
    ...     print(one_json_value(file, name="rows.json"))
    [{'prompt': '1 + 1?'}]
    None
    """
    first, has_more = _first_line(path)
    table = JsonArray(path, name=name)
    if first.strip() in ("[", "{", "[{"):
        # A row is never that short, so the file can only be one value. Any fault of it is reported here.
        _ = table.rows
        return table
    if not first or first[0] not in "[{":
        return None
    try:
        value = json.loads(first)
    except json.JSONDecodeError as error:
        return _continued(table, error, is_only_line=not has_more)
    except (ValueError, RecursionError):
        return None
    if has_more:
        return None
    holds_rows = isinstance(value, list) or rows_key(value, name=name) is not None
    return table if holds_rows else None


def _continued(table: JsonArray, error: json.JSONDecodeError, *, is_only_line: bool) -> JsonArray | None:
    """Return the table if the value of the first line, which is invalid, continues on the next lines.

    Raises:
        DataError: the only line begins as an array of rows and is truncated.
    """
    ends_early = error.pos >= len(error.doc)
    is_truncated = ends_early or error.msg.startswith("Unterminated string")
    if is_truncated and is_only_line and error.doc.startswith("[{"):
        # The error of the whole file says what to do.
        _ = table.rows
    return _if_whole(table) if ends_early else None


def _if_whole(table: JsonArray) -> JsonArray | None:
    """Return the table if the file is valid JSON as a whole."""
    try:
        _ = table.rows
    except DataError:
        return None
    return table


def _first_line(path: Path) -> tuple[str, bool]:
    """Return the first line that is not blank, and whether another such line follows."""
    check_rows_file(path)
    first: str | None = None
    try:
        with path.open("rb") as file:
            while line := read_line(file):
                if not line.strip():
                    continue
                if first is not None:
                    return first, True
                first = line.decode("utf-8-sig", "replace").strip()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return first or "", False
