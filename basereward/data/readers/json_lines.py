"""Reads a JSON Lines file by the byte offset of each line.

The `datasets` library also reads such files, but it copies them into a cache, requires one schema for all rows, and
does not report the line of a fault. This reader keeps only the byte offset of each line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from basereward.data.readers import FileTable
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, sentence
from basereward.io.limits import JSON_DEPTH, check_regular_file, nested_deeper, pipe_fault

MAX_ROW_BYTES = 64 * 2**20
"""The largest size of a row in a text file, in bytes. Longer rows are rejected without being parsed."""


class JsonLines(FileTable):
    """The lines of a JSON Lines file. Places are byte offsets, numbers are line numbers. Blank lines are skipped.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows.jsonl"
    ...     _ = file.write_text('{"prompt": "1 + 1?"}\\n\\n{"prompt": "2 + 2?"}\\n')
    ...     table = JsonLines(file)
    ...     print([(place, number) for place, number, _ in table.scan()])
    ...     print(table.decode(table.read(22)))
    [(0, 1), (22, 3)]
    {'prompt': '2 + 2?'}
    """

    def scan(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield the lines that are not blank, as bytes."""
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
        """Return the line that begins at a byte offset."""
        check_rows_file(self.path)
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return read_line(file)
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error

    def decode(self, raw: bytes) -> object:
        """Parse a line as JSON in UTF-8."""
        if len(raw) > MAX_ROW_BYTES:
            raise RowRejected("row_too_large", f"the line is longer than {MAX_ROW_BYTES:,} bytes, which is the limit")
        try:
            # "-sig" drops the byte-order mark with which some Windows programs begin a file.
            text = raw.decode("utf-8-sig").rstrip()
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
            raise RowRejected("not_utf8", f"not UTF-8: {byte}") from None
        return decode_json(text)

    def where(self, number: int) -> str:
        """Return the file and the line, in the form that editors open."""
        return f"{self.name}:{number}"


def check_rows_file(path: Path) -> None:
    """Check that a path is a regular file; reading a pipe or a device might never end.

    Raises:
        DataError: there is no such file, or it is not a regular file.

    >>> check_rows_file(Path("no.jsonl"))
    Traceback (most recent call last):
    basereward.errors.DataError: cannot read no.jsonl: No such file or directory. Give the path of a file with rows; ...
    """
    if fault := pipe_fault(path):
        raise DataError(f"cannot read {path}: {fault}")
    try:
        check_regular_file(path)
    except DataError as error:
        cause = getattr(error.__cause__, "strerror", None) or str(error)
        advice = f"Give the path of a file with rows; relative paths start from {Path.cwd()}"
        raise DataError(f"cannot read {path}: {sentence(cause)} {advice}") from error.__cause__


def read_line(file: BinaryIO) -> bytes:
    """Read the next line; of a line that is too long, return `MAX_ROW_BYTES + 1` bytes and skip the rest.

    >>> import io
    >>> read_line(io.BytesIO(b"first\\nsecond"))
    b'first\\n'
    """
    # `readline` without a limit would load a file without line breaks into memory as one line.
    line = file.readline(MAX_ROW_BYTES + 1)
    rest = line
    while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
        rest = file.readline(MAX_ROW_BYTES + 1)
    return line


def decode_json(text: str) -> object:
    """Parse a JSON text.

    Raises:
        RowRejected: `malformed_json`; `half_surrogate`, for text that no tokenizer accepts.

    >>> decode_json('{"prompt": "Hi"}')
    {'prompt': 'Hi'}
    """
    try:
        row = parse_json(text)
    except json.JSONDecodeError as error:
        what = "the row ends with a comma; remove it, JSON Lines rows have none"
        if not _is_json_before_a_comma(text):
            what = f"{error.msg} at column {error.colno}"
            if text.startswith("["):
                what += (
                    "; the line begins like an array of rows that is not complete: get the file again, or write one "
                    "object per line"
                )
        raise RowRejected("malformed_json", f"not JSON: {what}") from None
    except (RecursionError, ValueError) as error:
        # The row is nested too deeply, or contains an integer of thousands of digits.
        raise RowRejected("malformed_json", f"not usable: {error}") from None
    # Counting brackets is a cheap test that spares most rows the walk through the parsed value.
    if text.count("[") + text.count("{") > JSON_DEPTH and nested_deeper(row, JSON_DEPTH):
        raise RowRejected("malformed_json", f"not usable: JSON nested deeper than {JSON_DEPTH} levels")
    # Lone surrogates can only come from escapes, because the text itself was valid UTF-8.
    if "\\ud" in text.lower():
        check_unicode(row)
    return row


def parse_json(text: str) -> object:
    """Parse a JSON text in which no object has a key twice. Python would keep the last value in silence.

    Raises:
        ValueError: a key occurs twice in an object; or the text is not JSON (`json.JSONDecodeError`).

    >>> parse_json('{"chosen": "a", "rejected": "b", "chosen": "c"}')
    Traceback (most recent call last):
    ValueError: the key 'chosen' occurs twice in an object; keep one of the two
    """
    value: object = json.loads(text, object_pairs_hook=_unique_keys)
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key '{key[:80]}' occurs twice in an object; keep one of the two")
            seen.add(key)
    return unique


def check_unicode(row: object) -> None:
    """Check that the texts of a row are valid Unicode.

    Raises:
        RowRejected: `half_surrogate`; a text contains half of a surrogate pair, which no tokenizer accepts.

    >>> check_unicode({"prompt": "half: \\ud83d"})
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: not usable: a text contains half of a surrogate pair ...
    """
    try:
        # One call checks all keys and texts of the row.
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowRejected(
            "half_surrogate", "not usable: a text contains half of a surrogate pair (an escape from \\ud800 to \\udfff)"
        ) from None


def _is_json_before_a_comma(text: str) -> bool:
    if not text.endswith(","):
        return False
    try:
        json.loads(text[:-1])
    except (ValueError, RecursionError):
        return False
    return True
