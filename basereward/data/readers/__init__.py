"""Readers: one kind of file or storage with rows per module, all with the interface `Table`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


class Table(Protocol):
    """Rows on disk, with sequential and random access.

    Reading and decoding are separate steps, because an index over millions of rows needs their places only once but
    decodes them again and again. Tables are picklable, for the worker processes of the data loader.
    """

    @property
    def label(self) -> str:
        """The name of the table in messages."""
        ...

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (place, number, raw content) of every row, in order.

        The place is the argument of `read`; the number is the one that messages show.
        """
        ...

    def read(self, place: int) -> Any:
        """Return the raw content of one row."""
        ...

    def decode(self, raw: Any) -> object:
        """Convert raw content to a row, normally a dict.

        Raises:
            RowRejected: the content is malformed. The message does not contain the location; the caller adds it.
        """
        ...

    def where(self, number: int) -> str:
        """Return the location of a row for messages."""
        ...

    def row_id(self, number: int) -> str:
        """Return the id for a row that has no id of its own."""
        ...


class FileTable:
    """The part that all tables of one file have in common.

    Args:
        path: the file.
        name: the name of the file in messages. It differs from `path` if that is an unpacked copy. None: the path.

    >>> table = FileTable("cache/1f3a", name="data/pairs.jsonl.gz")
    >>> table.label, table.row_id(3)
    ('data/pairs.jsonl.gz', 'pairs.jsonl.gz:3')
    """

    def __init__(self, path: str | Path, *, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = Path(path if name is None else name)

    @property
    def label(self) -> str:
        """The path of the file as the user gave it."""
        return str(self.name)

    def row_id(self, number: int) -> str:
        """Return the name of the file and the number of the row."""
        # Without the folder: rows keep their ids if the data set is moved.
        return f"{self.name.name}:{number}"


class TableWrapper:
    """A table around another one. Subclasses override some methods; the others are those of the inner table.

    Args:
        table: the inner table.
    """

    table: Table

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def label(self) -> str:
        """The name of the inner table."""
        return self.table.label

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the rows of the inner table."""
        return self.table.scan()

    def read(self, place: int) -> Any:
        """Return the raw content of a row of the inner table."""
        return self.table.read(place)

    def decode(self, raw: Any) -> object:
        """Convert raw content as the inner table does."""
        return self.table.decode(raw)

    def where(self, number: int) -> str:
        """Return the location of the row in the inner table."""
        return self.table.where(number)

    def row_id(self, number: int) -> str:
        """Return the id that the inner table gives."""
        return self.table.row_id(number)
