"""Where rows lie: one kind of storage a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


class Table(Protocol):
    """Rows on a disk. `label` is what messages call the table."""

    @property
    def label(self) -> str: ...

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Place, number and raw content of every row, in order. `read` takes the place; the number is for people."""
        ...

    def read(self, place: int) -> Any:
        """The raw content of one row."""
        ...

    def decode(self, raw: Any) -> object:
        """The row. Raises: RowRejected, which does not say where."""
        ...

    def where(self, number: int) -> str:
        """What messages call a row."""
        ...

    def row_id(self, number: int) -> str:
        """The id of a row that has none of its own."""
        ...
