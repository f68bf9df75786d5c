"""Slices of a table with the syntax of the `datasets` library: `train[:100]`, `train[10%:]`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from basereward.data.readers import Table
from basereward.errors import DataError

PART = "train"


class Sliced:
    """A slice of a table; places and numbers are those of the table.

    Args:
        table: the table.
        split: a slice of `train`, or several with `+` between them.
    """

    def __init__(self, table: Table, split: str) -> None:
        self.table = table
        self.split = split

    @property
    def label(self) -> str:
        return f"{self.table.label} [{self.split}]"

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        last = max((end for _, end in self._ranges), default=0)
        for index, row in enumerate(self.table.scan()):
            if index >= last:
                return
            if any(start <= index < end for start, end in self._ranges):
                yield row

    def read(self, place: int) -> Any:
        return self.table.read(place)

    def decode(self, raw: Any) -> object:
        return self.table.decode(raw)

    def where(self, number: int) -> str:
        return self.table.where(number)

    def row_id(self, number: int) -> str:
        return self.table.row_id(number)

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        import datasets

        rows = sum(1 for _ in self.table.scan())
        try:
            parts = datasets.ReadInstruction.from_spec(self.split).to_absolute({PART: rows})
        except (ValueError, AssertionError) as error:
            raise DataError(f"{self.table.label}: split '{self.split}' cannot be read: {error}") from error
        return [(part.from_ or 0, rows if part.to is None else part.to) for part in parts]


def part_of(table: Table, split: str) -> Table:
    """Return the table, or the slice of it that a split names."""
    return table if split == PART else Sliced(table, split)


def is_part(split: str) -> bool:
    """Whether a split is `train` or slices of it.

    >>> is_part("train"), is_part("train[:10]+train[90%:]"), is_part("test")
    (True, True, False)
    """
    return all(piece.strip().partition("[")[0] == PART for piece in split.split("+"))
