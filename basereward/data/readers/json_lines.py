"""A JSON Lines file, read by the byte offset of each line.

The `datasets` library could read such files too, but it copies them into a cache, forces one schema on all rows, and
does not say in which line a fault is. A small reader that keeps the byte offset of each line does without all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.io.limits import JSON_DEPTH, check_regular_file, nested_deeper

MAX_ROW_BYTES = 64 * 2**20
"""Bytes of one row in a file of text. A longer one is lost; it is neither kept in memory nor parsed."""


class JsonLines:
    """The lines of a JSON Lines file: a place is a byte offset, a number counts lines. Blank lines are skipped.

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

    def scan(self) -> Iterator[tuple[int, int, bytes]]:
        check_rows_file(self.path)
        try:
            with self.path.open("rb") as file:
                offset = 0
                number = 0
                while line := read_line(file):
                    number += 1
                    if line.strip():
                        yield offset, number, line
                    offset = file.tell()
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error

    def read(self, place: int) -> bytes:
        check_rows_file(self.path)
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return read_line(file)
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error

    def decode(self, raw: bytes) -> object:
        if len(raw) > MAX_ROW_BYTES:
            raise RowRejected(
                "row_too_large", f"the line is longer than {MAX_ROW_BYTES:,} bytes, the most that is read"
            )
        try:
            text = raw.decode("utf-8-sig").rstrip()  # a byte-order mark at the start of the file is let pass
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
            raise RowRejected("not_utf8", f"not UTF-8: {byte}") from None
        return decode_json(text)

    def where(self, number: int) -> str:
        return f"{self.name}:{number}"

    def row_id(self, number: int) -> str:
        return f"{self.name.name}:{number}"


def check_rows_file(path: Path) -> None:
    """Raises: DataError, where there is no such file, or one that may never end."""
    try:
        check_regular_file(path)
    except DataError as error:
        cause = getattr(error.__cause__, "strerror", None) or str(error)
        advice = f"Give the path of a file with rows; a relative one starts from {Path.cwd()}"
        raise DataError(f"cannot read {path}: {cause}. {advice}") from error.__cause__


def read_line(file: BinaryIO) -> bytes:
    """The next line; of one that is too long the first `MAX_ROW_BYTES + 1` bytes, and the rest of it is passed over."""
    line = file.readline(MAX_ROW_BYTES + 1)
    rest = line
    while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
        rest = file.readline(MAX_ROW_BYTES + 1)
    return line


def decode_json(text: str) -> object:
    """The value that a text holds.

    Raises:
        RowRejected: it is no JSON, or no text that a tokenizer takes.
    """
    try:
        row: object = json.loads(text)
    except json.JSONDecodeError as error:
        what = "the row ends with a comma, and rows of JSON Lines have none after them: take it out"
        if not _is_json_before_a_comma(text):
            what = f"{error.msg} at column {error.colno}"
            if text.startswith("["):
                what += "; the file looks like one JSON array: write its objects one a line, as `jq -c '.[]'` does"
        raise RowRejected("malformed_json", f"not JSON: {what}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise RowRejected("malformed_json", f"not usable: {error}") from None
    if text.count("[") + text.count("{") > JSON_DEPTH and nested_deeper(row, JSON_DEPTH):
        raise RowRejected("malformed_json", f"not usable: JSON nested deeper than {JSON_DEPTH} levels")
    if "\\ud" in text.lower():
        check_unicode(row)
    return row


def check_unicode(row: object) -> None:
    """Raises: RowRejected, where a text holds half of a surrogate pair, which no tokenizer takes."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowRejected(
            "half_surrogate", "not usable: a text holds half of a surrogate pair (an escape from \\ud800 to \\udfff)"
        ) from None


def _is_json_before_a_comma(text: str) -> bool:
    if not text.endswith(","):
        return False
    try:
        json.loads(text[:-1])
    except (ValueError, RecursionError):
        return False
    return True
