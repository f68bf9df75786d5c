"""Adapters: convert rows of published data sets to our row format, one class a file.

A data set needs an adapter if renaming its columns is not enough. To add one, write a file in this folder or a
subfolder with a class that has the members of `RowAdapter`, or name any such class in a recipe by its dotted path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from basereward.data.schema.rejections import RowRejected

# Reasons for rows that are well-formed but contain no preference, such as ties. They are counted and listed like other
# rejected rows, but not reported as faults of the data.
NO_PREFERENCE = frozenset(
    {"equal_ratings", "low_score_ratio", "not_rated", "several_rounds", "single_response", "undecided"}
)


class RowAdapter(Protocol):
    """Converts a row of a data set to our row format, which `basereward/data/schema/rows.py` describes.

    An adapter is constructed as `Class(**arguments)` with the arguments of the recipe's `shape`. It must be picklable,
    because worker processes of the data loader get a copy, and deterministic.
    """

    columns: tuple[str, ...]
    """The columns that a row must have. Missing columns are reported before `__call__` runs."""

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Convert a row to our general form or pair form.

        Raises:
            RowRejected: the row cannot be used. Rejected rows are counted by `reason`.
        """
        ...


def check_columns(adapter: RowAdapter, row: Mapping[str, Any]) -> None:
    """Check that a row has all columns that an adapter reads.

    Raises:
        RowRejected: `missing_column`.

    >>> from basereward.data.adapters.multimodal.povid import POVID
    >>> check_columns(POVID(), {"image": "1.png", "conversations": []})
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: missing: rejected_conversations, which the shape POVID reads. ...
    """
    missing = [name for name in adapter.columns if name not in row]
    if missing:
        raise RowRejected(
            "missing_column",
            f"missing: {', '.join(missing)}, which the shape {type(adapter).__name__} reads. "
            f"Columns found: {', '.join(map(str, row)) or 'none'}. If the data set has other names for them, map them: "
            f"columns: {{{missing[0]}: ...}}",
        )
