"""How sure a share is, given the number of rows it was counted on."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson(correct: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Lowest and highest share that `correct` of `total` is compatible with, by Wilson's score interval.

    Of no rows nothing is known: (0, 1).

    Raises:
        ValueError: unless 0 <= correct <= total and 0 < level < 1.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no share; allowed is 0 <= correct <= total.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed is between 0 and 1, for example 0.95.")
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)
