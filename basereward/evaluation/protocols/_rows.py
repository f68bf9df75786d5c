"""What protocols ask of a row's cells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown


def text(row: Mapping[str, Any], column: str) -> str:
    """
    Raises:
        RowRejected: the cell is no text.
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a text is needed")
    return value


def texts(row: Mapping[str, Any], column: str, *, number: int | None = None) -> tuple[str, ...]:
    """
    Raises:
        RowRejected: the cell is no list of texts, or not of so many.
    """
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a list of texts is needed")
    if number is not None and len(value) != number:
        raise RowRejected("wrong_count", f"`{column}` has {len(value)} answers; {number} are needed")
    return tuple(value)


def one_of(row: Mapping[str, Any], column: str, allowed: Iterable[str], *, advice: str = "") -> str:
    """
    Raises:
        RowRejected: the cell holds none of the allowed names.
    """
    value, names = row.get(column), list(allowed)
    if value not in names:
        raise RowRejected("unknown_category", f"`{column}`: {unknown(column.lower(), str(value), names)}{advice}")
    return str(value)


def prompt_key(prompt: object) -> str:
    """A name that rows share when their prompts are the same."""
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16]
