"""Tables and numbers as the commands print them for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest entry; an empty `head` is not printed.

    >>> list(format_table(("cell", "status"), [("head=2_silu", "finished")]))
    ['cell         status', 'head=2_silu  finished']
    """
    # The head counts for the widths too, since it may be wider than every value.
    lines = [head, *rows] if head else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        # Without trailing blanks, which a narrow terminal would wrap into empty lines.
        yield "  ".join(padded).rstrip()


def format_number(value: float | None) -> str:
    """A measure with four decimals; whole numbers above 1 without decimals; `-` for what is not finite.

    >>> format_number(0.98765), format_number(300.0), format_number(float("nan"))
    ('0.9877', '300', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    # Accuracies of exactly 0 or 1 keep their decimals, so that they do not look like counts.
    is_count = value == int(value) and abs(value) > 1
    return f"{value:.0f}" if is_count else f"{value:.4f}"


def format_percent(share: float | None) -> str:
    """A share from 0 to 1 in percent, without the sign.

    >>> format_percent(0.82160), format_percent(None)
    ('82.16', '-')
    """
    return "-" if share is None else f"{100 * share:.2f}"


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts by name on one line.

    >>> format_counts({"duplicate": 3, "contaminated": 1})
    'duplicate 3, contaminated 1'
    """
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def format_lost(counts: Mapping[str, int]) -> Iterator[str]:
    """One line a reason for which rows were rejected.

    >>> list(format_lost({"too_long": 2}))
    ['lost: 2 (too_long)']
    """
    for reason, count in counts.items():
        yield f"lost: {count} ({reason})"
