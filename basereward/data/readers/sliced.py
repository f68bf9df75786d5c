"""Slices of a table with the syntax of the `datasets` library: `train[:100]`, `train[10%:]`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from basereward.data.readers import Table, TableWrapper
from basereward.errors import DataError

PART = "train"


class Sliced(TableWrapper):
    """A slice of a table; places and numbers are those of the table.

    Args:
        table: the table.
        split: a slice of `train`, or several with `+` between them.

    Raises:
        DataError: (when rows are read) the slice has no valid syntax.

    >>> from basereward.data.readers.json_lines import JsonLines
    >>> Sliced(JsonLines("pairs.jsonl"), "train[:100]").label
    'pairs.jsonl [train[:100]]'
    """

    def __init__(self, table: Table, split: str) -> None:
        super().__init__(table)
        self.split = split

    @property
    def label(self) -> str:
        """The name of the table and the slice."""
        return f"{self.table.label} [{self.split}]"

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the rows of the slice in the order of the table, each once."""
        last = max((end for _, end in self._ranges), default=0)
        for index, row in enumerate(self.table.scan()):
            if index >= last:
                return
            if any(start <= index < end for start, end in self._ranges):
                yield row

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        """The (first, last + 1) row indices of each slice."""
        import datasets

        # Percentages and negative indices need the number of rows, which only reading the table gives.
        rows = sum(1 for _ in self.table.scan())
        try:
            parts = datasets.ReadInstruction.from_spec(self.split).to_absolute({PART: rows})
        except (ValueError, AssertionError) as error:
            raise DataError(f"{self.table.label}: split '{self.split}' cannot be read: {error}") from error
        return [(part.from_ or 0, rows if part.to is None else part.to) for part in parts]


def part_of(table: Table, split: str) -> Table:
    """Return the table, or the slice of it that a split names.

    >>> from basereward.data.readers.json_lines import JsonLines
    >>> part_of(JsonLines("a.jsonl"), "train").label, part_of(JsonLines("a.jsonl"), "train[5:]").label
    ('a.jsonl', 'a.jsonl [train[5:]]')
    """
    return table if split == PART else Sliced(table, split)


def is_part(split: str) -> bool:
    """Whether a split is `train` or slices of it.

    >>> is_part("train"), is_part("train[:10]+train[90%:]"), is_part("test")
    (True, True, False)
    """
    return all(piece.strip().partition("[")[0] == PART for piece in split.split("+"))
