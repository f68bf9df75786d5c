"""Read and check the cells of a row, for protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown


def text(row: Mapping[str, Any], column: str) -> str:
    """Read a text.

    Raises:
        RowRejected: the cell is not text.

    >>> text({"question": "2 + 2?"}, "question")
    '2 + 2?'
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a text is needed")
    return value


def texts(row: Mapping[str, Any], column: str, *, number: int | None = None) -> tuple[str, ...]:
    """Read a list of texts.

    Args:
        row: the row.
        column: the name of the column.
        number: how many texts are required; None: at least one.

    Raises:
        RowRejected: the cell is not a list of texts, or has another number of texts.

    >>> texts({"chosen": ["4", "four"]}, "chosen", number=2)
    ('4', 'four')
    """
    value = row.get(column)
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a list of texts is needed")
    if number is not None and len(value) != number:
        raise RowRejected("wrong_count", f"`{column}` has {len(value)} answers; {number} are needed")
    return tuple(value)


def one_of(row: Mapping[str, Any], column: str, allowed: Iterable[str], *, advice: str = "") -> str:
    """Read one of a set of names.

    Args:
        row: the row.
        column: the name of the column.
        allowed: the names.
        advice: what to do about another name; it is appended to the message.

    Raises:
        RowRejected: the cell is none of the names.

    >>> one_of({"label": "A>B"}, "label", ["A>B", "B>A"])
    'A>B'
    """
    value, names = row.get(column), list(allowed)
    if value not in names:
        raise RowRejected("unknown_category", f"`{column}`: {unknown(column.lower(), str(value), names)}{advice}")
    return str(value)


def prompt_key(prompt: object) -> str:
    """Hash a prompt, so that rows with equal prompts share a `prompt_id` of 16 hexadecimal digits.

    >>> prompt_key("2 + 2?") == prompt_key("2 + 2?"), len(prompt_key("2 + 2?"))
    (True, 16)
    """
    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16]
