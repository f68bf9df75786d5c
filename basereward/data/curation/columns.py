"""Formats tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Format lines of cells as columns, aligned at the left.

    Args:
        lines: the cells of each line, as many in each.

    >>> columns([["source", "rows"], ["a", "10"]]).splitlines()
    ['source  rows', 'a       10']
    """
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    # The last cell is padded as well, and trailing spaces would wrap the line in a narrow terminal.
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
