"""Correlation of two measures over models, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, pearsonr, spearmanr

from basereward.errors import DataError

# With three pairs the standard error of Fisher's z is infinite.
MIN_FOR_INTERVAL = 4
# Beside a constant, rounding leaves differences of this relative size.
CONSTANT = 1e-12


class Correlation(NamedTuple):
    """A coefficient over n models, with its 95 % interval.

    Attributes:
        value: from -1 to 1; None with fewer than two models, or if one measure is the same for all of them.
        low, high: of the interval; None with fewer than four models, without a value, or at -1 and 1, for which the
            formulas give none.
        n: the number of models.

    >>> Correlation(0.9, None, None, 3).as_dict()["n"]
    3
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return self._asdict()


def pearson(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Pearson's r of two measures. The interval is Fisher's: z = atanh r with the standard error 1 / sqrt(n - 3).

    Args:
        first, second: a value of each measure for every model.

    Raises:
        DataError: there are not equally many finite values.

    >>> round(pearson([1, 2, 3, 4], [2, 4, 5, 9]).value, 3)
    0.965
    """
    return _correlation(first, second, lambda x, y: pearsonr(x, y).statistic, lambda value: 1.0)


def spearman(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Spearman's rho of two measures: Pearson's r of the ranks, where equal values share a rank.

    The interval is Fisher's with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright (2000).

    Args:
        first, second: as of `pearson`.

    Raises:
        DataError: there are not equally many finite values.

    >>> spearman([1, 2, 3, 4], [2, 4, 9, 5]).value
    0.8
    """
    return _correlation(first, second, lambda x, y: spearmanr(x, y).statistic, lambda value: 1 + value**2 / 2)


def _correlation(
    first: Sequence[float],
    second: Sequence[float],
    statistic: Callable[[Sequence[float], Sequence[float]], float],
    scale: Callable[[float], float],
) -> Correlation:
    """A coefficient with the interval tanh(atanh r +- 1.96 sqrt(scale / (n - 3)))."""
    if len(first) != len(second) or not all(map(math.isfinite, (*first, *second))):
        raise DataError(
            f"a correlation needs two finite values for each model; {len(first)} and {len(second)} values are given"
        )
    n = len(first)
    if n < 2 or _is_constant(first) or _is_constant(second):
        return Correlation(None, None, None, n)
    # Rounding may leave a perfect correlation above 1.
    value = max(-1.0, min(1.0, round(float(statistic(first, second)), 12)))
    # z is infinite at 1.
    if n < MIN_FOR_INTERVAL or abs(value) == 1:
        return Correlation(value, None, None, n)
    spread = float(norm.ppf(0.975)) * math.sqrt(scale(value) / (n - 3))
    z = math.atanh(value)
    return Correlation(value, math.tanh(z - spread), math.tanh(z + spread), n)


def _is_constant(values: Sequence[float]) -> bool:
    return bool(np.ptp(values) <= CONSTANT * max(map(abs, values)))
