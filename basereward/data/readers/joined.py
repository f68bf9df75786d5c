"""Several tables as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from basereward.data.readers import Table

_SHIFT = 40  # a place is a table's index in the high bits and a place in it in the low ones: files of up to a terabyte


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
        table, at = self._of(place)
        return self.tables.index(table), table.read(at)

    def decode(self, raw: tuple[int, Any]) -> object:
        return self.tables[raw[0]].decode(raw[1])

    def where(self, number: int) -> str:
        table, at = self._of(number)
        return table.where(at)

    def row_id(self, number: int) -> str:
        table, at = self._of(number)
        return table.row_id(at)

    def _of(self, place: int) -> tuple[Table, int]:
        return self.tables[place >> _SHIFT], place & ((1 << _SHIFT) - 1)
