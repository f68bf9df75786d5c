"""Rows of a table that belong together, as one row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from basereward.data.readers import Table
from basereward.data.schema.rejections import RowRejected


@runtime_checkable
class JoinsRows(Protocol):
    """A shape that makes one group of several rows; it gets them joined, as `Gathered` says."""

    def key(self, row: Mapping[str, Any]) -> str | None:
        """What rows of one group have in common; None for a row that stands alone."""
        ...


class Gathered:
    """A table whose rows with equal keys are one row: the cells of the first, and all of them, in order, in `rows`.

    A place is the index of such a row, its number that of its first one. The table is read through once before the
    first row; of each row its place is kept.

    Args:
        key: of a row; see `JoinsRows`.
        columns: a column that the key reads -> the table's own, where it has another name.
    """

    def __init__(
        self,
        table: Table,
        *,
        key: Callable[[Mapping[str, Any]], str | None],
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.table = table
        self.key = key
        self.columns = dict(columns or {})

    @property
    def label(self) -> str:
        return self.table.label

    def scan(self) -> Iterator[tuple[int, int, list[Any]]]:
        for index, (number, _) in enumerate(self._joined):
            yield index, number, self.read(index)

    def read(self, place: int) -> list[Any]:
        return [self.table.read(at) for at in self._joined[place][1]]

    def decode(self, raw: list[Any]) -> object:
        rows = [self._row(one) for one in raw]
        return {**rows[0], "rows": rows} if isinstance(rows[0], dict) else rows[0]

    def where(self, number: int) -> str:
        return self.table.where(number)

    def row_id(self, number: int) -> str:
        return self.table.row_id(number)

    @cached_property
    def _joined(self) -> list[tuple[int, list[int]]]:
        """The number of the first row and the places of all, of each joined row."""
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
        except RowRejected:  # it will be said of the row where it stands alone
            return None
        key = self.key(row) if isinstance(row, dict) else None
        return None if key is None else hashlib.blake2b(key.encode(), digest_size=16).digest()
