"""Numbers as the tables print them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """A measure to four places; counts whole.

    >>> number(0.98765), number(300.0), number(float("nan"))
    ('0.9877', '300', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"
