"""Concatenates several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from basereward.data.readers import Table

_SHIFT = 40  # places have the index of the table in the high bits; 40 low bits allow files of a terabyte


class Joined:
    """The rows of several tables, one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = list(tables)

    @property
    def label(self) -> str:
        return ", ".join(table.label for table in self.tables)

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        for index, table in enumerate(self.tables):
            for place, number, raw in table.scan():
                yield index << _SHIFT | place, index << _SHIFT | number, (index, raw)

    def read(self, place: int) -> Any:
        index, inner = self._split(place)
        return index, self.tables[index].read(inner)

    def decode(self, raw: tuple[int, Any]) -> object:
        return self.tables[raw[0]].decode(raw[1])

    def where(self, number: int) -> str:
        index, inner = self._split(number)
        return self.tables[index].where(inner)

    def row_id(self, number: int) -> str:
        index, inner = self._split(number)
        return self.tables[index].row_id(inner)

    def _split(self, place: int) -> tuple[int, int]:
        """Return the index of the table, and the place (or number) in it."""
        return place >> _SHIFT, place & ((1 << _SHIFT) - 1)
