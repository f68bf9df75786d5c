"""Cells as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, one under the other.

    >>> columns([["source", "rows"], ["a", "10"]]).splitlines()
    ['source  rows', 'a       10']
    """
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
