"""Test correlations and their intervals against scipy and the formulas by hand."""

from __future__ import annotations

import math

import pytest
from scipy.stats import pearsonr, spearmanr

from basereward.errors import DataError
from basereward.evaluation.statistics.correlation import pearson, spearman

FIRST = [0.31, 0.42, 0.55, 0.58, 0.66, 0.71]
SECOND = [0.01, 0.05, 0.04, 0.09, 0.16, 0.12]


def test_pearson_and_its_interval_are_those_of_scipy() -> None:
    """`pearsonr().confidence_interval` is Fisher's too."""
    found, expected = pearson(FIRST, SECOND), pearsonr(FIRST, SECOND)
    bounds = expected.confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((expected.statistic, bounds.low, bounds.high))
    assert found.n == 6


def test_spearman_has_the_interval_of_bonett_and_wright() -> None:
    """Ranks 1 3 2 4 6 5 against 1 to 6: rho = 1 - 6 * 4 / (6 * 35) = 31 / 35, and the spread is
    1.96 * sqrt((1 + rho^2 / 2) / 3)."""
    found, rho = spearman(FIRST, SECOND), 31 / 35
    assert found.value == pytest.approx(rho)
    assert found.value == pytest.approx(spearmanr(FIRST, SECOND).statistic)
    spread = 1.959964 * math.sqrt((1 + rho**2 / 2) / 3)
    bounds = (math.tanh(math.atanh(rho) - spread), math.tanh(math.atanh(rho) + spread))
    assert (found.low, found.high) == pytest.approx(bounds, abs=1e-6)


def test_what_has_no_value_or_no_interval() -> None:
    """A constant has no correlation; three models, and perfect agreement, have no interval."""
    assert pearson([1.0, 2.0, 3.0], [0.1, 0.1, 0.1]).value is None
    assert spearman([1.0], [2.0]).value is None
    three, perfect = pearson([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]), spearman(FIRST, [value**3 for value in FIRST])
    assert three.value is not None
    assert perfect.value == 1
    assert [three.low, three.high, perfect.low, perfect.high] == [None] * 4


@pytest.mark.parametrize("second", [[1.0], [1.0, math.nan]])
def test_missing_values_are_refused(second: list[float]) -> None:
    """Another number of values, and one that is not finite."""
    with pytest.raises(DataError):
        pearson([1.0, 2.0], second)
