"""How published data sets write a row: one class a file, for those whose columns a mapping cannot turn into ours.

An adapter of your own is a file here, or any class that a recipe names by its dotted path, with the members of
`RowAdapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from basereward.data.schema.rejections import RowRejected

# What a data set itself says of rows that hold no preference: they are counted and listed, and nothing is wrong with
# them.
NO_PREFERENCE = frozenset(
    {"equal_ratings", "low_score_ratio", "not_rated", "several_rounds", "single_response", "undecided"}
)


class RowAdapter(Protocol):
    """Turns a row of a data set into one of ours (described in `basereward/data/schema/rows.py`).

    Made as `Class(**arguments of the recipe)`; picklable, for the loader's processes. The same row gives the same row.
    """

    columns: tuple[str, ...]
    """The columns that a row must have; those it lacks are named before anything else is looked at."""

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row in our general or pair form.

        Raises:
            RowRejected: the row says nothing that can be used; the reason is what it is counted under.
        """
        ...


def check_columns(shape: RowAdapter, row: Mapping[str, Any]) -> None:
    """Raises:
    RowRejected: the row lacks a column that the shape reads; the message names those that there are.
    """
    missing = [name for name in shape.columns if name not in row]
    if missing:
        raise RowRejected(
            "missing_column",
            f"missing: {', '.join(missing)}, which the shape {type(shape).__name__} reads. "
            f"Columns found: {', '.join(map(str, row)) or 'none'}. If they are these under other names, map them: "
            f"columns: {{{missing[0]}: ...}}",
        )
