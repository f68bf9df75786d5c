"""A file that holds one JSON array of rows, as some data sets are published; it is read whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from basereward.data.screening import RowLost
from basereward.errors import DataError


class JsonArray:
    """The objects of an array: a place is an index, and so is its number."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def label(self) -> str:
        return str(self.path)

    def scan(self) -> Iterator[tuple[int, int, object]]:
        for index, row in enumerate(self._rows):
            yield index, index, row

    def read(self, place: int) -> object:
        return self._rows[place]

    def decode(self, raw: object) -> object:
        try:
            json.dumps(raw, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RowLost("half_surrogate", "not usable: a text holds half of a surrogate pair") from None
        return raw

    def where(self, number: int) -> str:
        return f"{self.path}, row {number}"

    def row_id(self, number: int) -> str:
        return f"{self.path.name}:{number}"

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}  # a loader's process reads the file itself, in place of getting all rows

    @cached_property
    def _rows(self) -> list[object]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read {self.path}: {error}") from error
        if not isinstance(rows, list):
            raise DataError(
                f"{self.path} holds {type(rows).__name__}; an array of rows is needed, or one row a line of a .jsonl"
            )
        return rows
