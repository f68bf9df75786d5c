"""A JSON Lines file, read by the byte offset of each line.

The `datasets` library could read such files too, but it copies them into a cache, forces one schema on all rows, and
does not say in which line a fault is. A small reader that keeps the byte offset of each line does without all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from basereward.data.screening import RowLost
from basereward.errors import DataError


class JsonLines:
    """The lines of a JSON Lines file: a place is a byte offset, a number counts lines. Blank lines are skipped."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def label(self) -> str:
        return str(self.path)

    def scan(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            with self.path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield offset, number, line
                    offset += len(line)
        except OSError as error:
            raise DataError(
                f"cannot read {self.path}: {error.strerror or error}. Give the path of a JSON Lines file; "
                f"a relative one starts from {Path.cwd()}"
            ) from error

    def read(self, place: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return file.readline()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    def decode(self, raw: bytes) -> object:
        try:
            text = raw.decode("utf-8-sig").rstrip()  # a byte-order mark at the start of the file is let pass
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
            raise RowLost("not_utf8", f"not UTF-8: {byte}") from None
        return decode_json(text)

    def where(self, number: int) -> str:
        return f"{self.path}:{number}"

    def row_id(self, number: int) -> str:
        return f"{self.path.name}:{number}"


def decode_json(text: str) -> object:
    """The value that a text holds.

    Raises:
        RowLost: it is no JSON, or no text that a tokenizer takes.
    """
    try:
        row: object = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text: no tokenizer takes it
        return row
    except UnicodeEncodeError:
        raise RowLost(
            "half_surrogate", "not usable: a text holds half of a surrogate pair (an escape from \\ud800 to \\udfff)"
        ) from None
    except json.JSONDecodeError as error:
        hint = ""
        if text.lstrip().startswith("["):
            hint = "; the file looks like one JSON array: write its objects one a line, as `jq -c '.[]'` does"
        raise RowLost("malformed_json", f"not JSON: {error.msg} at column {error.colno}{hint}") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; an integer of thousands of digits
        raise RowLost("malformed_json", f"not usable: {error}") from None
