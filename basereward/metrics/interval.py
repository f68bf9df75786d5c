"""Confidence intervals of shares: of independent rows (Wilson), and of rows in groups (bootstrap)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Interval: TypeAlias = tuple[float, float]
RESAMPLES = 2000
CHUNK = 100
"""Resamples that are drawn at once; it limits the memory for many different rows."""
SEED = 0


def wilson(correct: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share `correct` / `total`; (0, 1) without rows.

    Args:
        correct: number of correct rows.
        total: number of rows, independent of each other.
        level: confidence level.

    Raises:
        ValueError: unless 0 <= correct <= total and 0 < level < 1.

    >>> low, high = wilson(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is not a share; allowed is 0 <= correct <= total.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed is between 0 and 1, for example 0.95.")
    if total == 0:
        return 0.0, 1.0
    # Wilson's interval, unlike the normal one, stays within 0 and 1 and has a width at shares of 0 and 1.
    interval = binomtest(correct, total).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def resampled(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """The 95 % interval of a weighted mean of ratios, by percentile bootstrap over independent units.

    Args:
        sums: `(N, C, 2)`: what each of N independent units (prompts or groups) adds to the numerator and to the
            denominator of the ratio of each of C categories.
        weights: `(C,)`, of the categories.

    >>> one_pair_each = np.array([[[1.0, 1.0]], [[0.0, 1.0]]] * 50)  # 100 groups, half of them correct
    >>> low, high = resampled(one_pair_each, np.ones(1))
    >>> bool(0.35 < low < 0.45 and 0.55 < high < 0.65)
    True
    """
    # A bootstrap over one unit would draw the same unit every time and give an interval of width 0.
    if len(sums) < 2:
        return 0.0, 1.0
    # To draw units with replacement is to draw the number of times that each distinct unit occurs, and most units equal
    # many others.
    distinct, counts = np.unique(sums.reshape(len(sums), -1), axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    chunks = []
    for _ in range(RESAMPLES // CHUNK):
        occurrences = rng.multinomial(len(sums), counts / len(sums), size=CHUNK)
        chunks.append(occurrences @ distinct)
    drawn = np.concatenate(chunks).reshape(RESAMPLES, *sums.shape[1:])
    # A category without drawn units is left out of the mean of this resample.
    with np.errstate(invalid="ignore"):
        ratios = drawn[..., 0] / drawn[..., 1]
    present = ~np.isnan(ratios)
    means = (np.nan_to_num(ratios) * weights).sum(-1) / (present * weights).sum(-1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
