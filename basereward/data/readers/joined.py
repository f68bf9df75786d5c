"""Concatenates several tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from basereward.data.readers import Table

# Places have the index of the table in the high bits. The 40 low bits allow files of a terabyte, and an index needs one
# integer per row.
_SHIFT = 40


class Joined:
    """The rows of several tables, one after the other.

    Args:
        tables: the tables.

    >>> from basereward.data.readers.json_lines import JsonLines
    >>> table = Joined([JsonLines("a.jsonl"), JsonLines("b.jsonl")])
    >>> table.label, table.where((1 << 40) + 7)
    ('a.jsonl, b.jsonl', 'b.jsonl:7')
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = list(tables)

    @property
    def label(self) -> str:
        """The names of all tables."""
        return ", ".join(table.label for table in self.tables)

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the rows of all tables; raw contents are pairs of (index of the table, its raw content)."""
        for index, table in enumerate(self.tables):
            for place, number, raw in table.scan():
                yield index << _SHIFT | place, index << _SHIFT | number, (index, raw)

    def read(self, place: int) -> Any:
        """Return the index of the row's table and the raw content."""
        index, inner = self._split(place)
        return index, self.tables[index].read(inner)

    def decode(self, raw: tuple[int, Any]) -> object:
        """Convert raw content by the table that it comes from."""
        return self.tables[raw[0]].decode(raw[1])

    def where(self, number: int) -> str:
        """Return the location of a row in its own table."""
        index, inner = self._split(number)
        return self.tables[index].where(inner)

    def row_id(self, number: int) -> str:
        """Return the id that the row's own table gives."""
        index, inner = self._split(number)
        return self.tables[index].row_id(inner)

    def _split(self, place: int) -> tuple[int, int]:
        """Return the index of the table, and the place (or number) in it."""
        return place >> _SHIFT, place & ((1 << _SHIFT) - 1)


def concatenate(tables: Sequence[Table]) -> Table:
    """Return the only table, or all tables as one.

    >>> from basereward.data.readers.json_lines import JsonLines
    >>> concatenate([JsonLines("a.jsonl")]).label
    'a.jsonl'
    """
    # A single table keeps its own places, so that an index of it stays valid.
    return tables[0] if len(tables) == 1 else Joined(tables)
