"""Formats of preference rows: one module for each project whose format is read, all in one table, `recognise.FORMATS`.

To add a format, write a `Format` in a module of this folder, with a row of it as `example`, and name it in the table.
The documentation lists the table, and a test reads every example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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
    note: str = ""

    def fits(self, row: Cells) -> bool:
        """Whether a row is of this format."""
        if any(row.get(name) is None for name in self.columns):
            return False
        if any(row.get(name) is not None for name in self.absent):
            return False
        return self.matches is None or self.matches(row)

    @property
    def title(self) -> str:
        """The project and the columns, for messages.

        >>> Format("pairs", "TRL", ("prompt", "chosen"), example={}).title
        'TRL (prompt, chosen)'
        """
        return f"{self.project} ({', '.join(self.columns)})"
