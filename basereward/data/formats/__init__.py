"""Formats of preference rows: one module for each project whose format is read, all in one table, `recognise.FORMATS`.

To add a format, write a `Format` in a module of this folder, with a row of it as `example`, and name it in the table.
The documentation lists the table, and a test reads every example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from basereward.data.schema.messages import METADATA, is_empty
from basereward.data.schema.rejections import RowRejected

Cells: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """A format of rows, which is recognised by its columns.

    Attributes:
        name: a short identifier.
        project: the project or data set whose format it is.
        columns: the columns that a row must have, and that must not be null.
        absent: columns that a row must not have, because they belong to another format.
        matches: a further condition on the cells; None: the columns are enough.
        convert: makes a row with our columns (see `basereward/data/schema/rows.py`) of the cells that it reads. Columns
            of ours that it does not return, such as `images` and `system`, are taken from the row itself. None: the
            row has our columns already.
        names: our name of a column that `convert` returns -> its name in the format, for columns that a user may leave
            unread. Those with the same name need none.
        nested: column with objects that `convert` reads itself -> the keys of an object that it reads. Other keys of
            metadata are reported as unread, and any other key rejects the row.
        annotated: columns of `nested` in which every other key is an annotation, and is reported as unread.
        note: how the format is read, for the documentation.
        example: a row of this format.

    >>> Format("pairs", "TRL", ("prompt", "chosen", "rejected"), example={}).fits({"prompt": "Q", "chosen": "a"})
    False
    """

    name: str
    project: str
    columns: tuple[str, ...]
    example: Cells
    absent: tuple[str, ...] = ()
    matches: Callable[[Cells], bool] | None = None
    convert: Callable[[Cells], Cells] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    nested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    annotated: tuple[str, ...] = ()
    note: str = ""

    def fits(self, row: Cells) -> bool:
        """Whether a row is of this format."""
        if any(row.get(name) is None for name in self.columns):
            return False
        if any(row.get(name) is not None for name in self.absent):
            return False
        return self.matches is None or self.matches(row)

    def unread_keys(self, row: Cells) -> list[str]:
        """List the keys of objects inside of columns that are not read, such as `completions[].model`.

        Raises:
            RowRejected: `unknown_key` (a key that may change the conversation).

        >>> form = Format("a", "A", ("answers",), example={}, nested={"answers": ("text",)})
        >>> form.unread_keys({"answers": [{"text": "4", "model": "m"}, {"text": "5"}]})
        ['answers[].model']
        """
        unread: dict[str, None] = {}
        for column, known in self.nested.items():
            value = row.get(column)
            where = f"{column}[]" if isinstance(value, list) else column
            for key in _keys_of_objects(value):
                if key in known:
                    continue
                if key not in METADATA and column not in self.annotated:
                    raise _unknown_key(column, key, known)
                unread[f"{where}.{key}"] = None
        return list(unread)

    @property
    def title(self) -> str:
        """The project and the columns, for messages.

        >>> Format("pairs", "TRL", ("prompt", "chosen"), example={}).title
        'TRL (prompt, chosen)'
        """
        return f"{self.project} ({', '.join(self.columns)})"


def _keys_of_objects(value: Any) -> Iterator[str]:
    """The keys with a value of an object, or of the objects in a list."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield from (str(key) for key, cell in item.items() if not is_empty(cell))


def _unknown_key(column: str, key: str, known: tuple[str, ...]) -> RowRejected:
    """Make the rejection of a row with an object that has a key of unknown meaning."""
    return RowRejected(
        "unknown_key",
        f"an object in `{column}` has the key '{key[:60]}', which is not read and may change the conversation; remove "
        f"it from the rows, or write it into the texts. Keys that are read: {', '.join(known)}",
    )
