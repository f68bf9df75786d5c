"""Joins rows of a table that belong to one group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from basereward.data.readers import Table, TableWrapper
from basereward.data.schema.rejections import RowRejected


@runtime_checkable
class JoinsRows(Protocol):
    """An adapter that makes one group of several rows, which it gets joined by `Gathered`."""

    def key(self, row: Mapping[str, Any]) -> str | None:
        """Compute the key that the rows of a group share; None for a row that stays alone."""
        ...


class Gathered(TableWrapper):
    """A table in which rows with equal keys are joined.

    A joined row has the cells of its first row, and all its rows, in order, as `rows`. Places are indices of joined
    rows, numbers those of their first rows. The table is read once before the first row, to collect the places.

    Args:
        table: the table.
        key: computes the key of a row; see `JoinsRows`.
        columns: a column that the key reads -> its name in the table.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from basereward.data.readers.json_lines import JsonLines
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "answers.jsonl"
    ...     _ = file.write_text('{"q": 1, "a": "x"}\\n{"q": 2, "a": "y"}\\n{"q": 1, "a": "z"}\\n')
    ...     table = Gathered(JsonLines(file), key=lambda row: str(row["q"]))
    ...     print([[row["a"] for row in table.decode(raw)["rows"]] for _, _, raw in table.scan()])
    [['x', 'z'], ['y']]
    """

    def __init__(
        self,
        table: Table,
        *,
        key: Callable[[Mapping[str, Any]], str | None],
        columns: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(table)
        self.key = key
        self.columns = dict(columns or {})

    def scan(self) -> Iterator[tuple[int, int, list[Any]]]:
        """Yield the joined rows in the order of their first rows."""
        for index, (number, _) in enumerate(self._joined):
            yield index, number, self.read(index)

    def read(self, place: int) -> list[Any]:
        """Return the raw contents of all rows that are joined."""
        return [self.table.read(member) for member in self._joined[place][1]]

    def decode(self, raw: list[Any]) -> object:
        """Convert raw contents to the first row, with all rows as `rows`."""
        rows = [self._row(member) for member in raw]
        return {**rows[0], "rows": rows} if isinstance(rows[0], dict) else rows[0]

    @cached_property
    def _joined(self) -> list[tuple[int, list[int]]]:
        """For each joined row, the number of its first row and the places of all its rows."""
        joined: list[tuple[int, list[int]]] = []
        known: dict[bytes, list[int]] = {}
        for place, number, raw in self.table.scan():
            digest = self._digest(raw)
            if digest in known:
                known[digest].append(place)
                continue
            joined.append((number, [place]))
            if digest is not None:
                known[digest] = joined[-1][1]
        return joined

    def _row(self, raw: Any) -> object:
        row = self.table.decode(raw)
        if not isinstance(row, dict):
            return row
        return row | {ours: row[own] for ours, own in self.columns.items() if own in row}

    def _digest(self, raw: Any) -> bytes | None:
        try:
            row = self._row(raw)
        except RowRejected:
            # The row stays alone, and its fault is reported when it is decoded.
            return None
        key = self.key(row) if isinstance(row, dict) else None
        # A digest instead of the key, which may be a prompt of megabytes.
        return None if key is None else hashlib.blake2b(key.encode(), digest_size=16).digest()
