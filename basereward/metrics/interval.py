"""How sure a share is: of rows that do not depend on each other, and of rows that come in groups."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Interval: TypeAlias = tuple[float, float]
RESAMPLES = 2000
PIECE = 100
SEED = 0


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


def resampled(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> Interval:
    """The 95 % interval of a weighted mean of ratios, by percentile bootstrap over what does not depend on each other.

    Args:
        sums: (prompts or groups, categories, 2): what each adds to the numerator and to the denominator of each ratio.
        weights: of the categories.
    """
    if len(sums) < 2:
        return 0.0, 1.0
    # Drawing rows with replacement is drawing how often each kind of row comes, and kinds are few.
    kinds, counts = np.unique(sums.reshape(len(sums), -1), axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    pieces = [
        rng.multinomial(len(sums), counts / len(sums), size=PIECE) @ kinds for _ in range(RESAMPLES // PIECE)
    ]  # so that many kinds need no more memory than few
    drawn = np.concatenate(pieces).reshape(RESAMPLES, *sums.shape[1:])
    with np.errstate(invalid="ignore"):  # a category of which nothing was drawn is left out of this mean
        ratios = drawn[..., 0] / drawn[..., 1]
    present = ~np.isnan(ratios)
    means = (np.nan_to_num(ratios) * weights).sum(-1) / (present * weights).sum(-1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
