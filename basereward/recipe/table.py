"""Cells, faults and other rows as lines of text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from basereward.recipe.fault import Fault, format_faults
from basereward.recipe.grid import label

WIDEST = 80  # letters of a value in the table of cells


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest entry; an empty `head` is not printed.

    >>> list(table(("cell", "status"), [("head=2_silu", "finished")]))
    ['cell         status', 'head=2_silu  finished']
    """
    lines = [head, *rows] if head else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def check_table(cells: Sequence[tuple[str, dict[str, Any]]], faults: Sequence[Fault]) -> Iterator[str]:
    """The cells, each a name and what is varied in it, and below them the faults."""
    rows = [(name, "  ".join(f"{key}={_short(value)}" for key, value in varied.items())) for name, varied in cells]
    if rows:
        yield from (*table(("cell", "what is varied"), rows), "")
    lines = format_faults(faults)
    yield f"{count(len(rows), 'cell')}, {count(len(lines), 'fault') if lines else 'no faults'}"
    yield from (f"  {line}" for line in lines)


def _short(value: Any) -> str:
    """A value that a line has room for; the cell's name tells it from the others."""
    text = label(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def count(number: int, noun: str) -> str:
    """A number of things.

    >>> count(1, "cell"), count(7, "cell")
    ('1 cell', '7 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
