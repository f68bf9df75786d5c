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
    """

    def __init__(self, path: str | Path, *, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = Path(path if name is None else name)

    @property
    def label(self) -> str:
        return str(self.name)

    def row_id(self, number: int) -> str:
        return f"{self.name.name}:{number}"
