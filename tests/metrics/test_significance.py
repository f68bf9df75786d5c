"""Differences that stand, and those that are chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from basereward.metrics.significance import Difference, holm, in_words, over_items, over_seeds


def test_exchanging_is_the_sign_test() -> None:
    """Of right and wrong alone, the probability is that of the exact sign test on the items that differ, within four
    standard deviations of 10,000 draws."""
    first, second = [1.0] * 18 + [0.0] * 7 + [1.0] * 75, [0.0] * 18 + [1.0] * 7 + [1.0] * 75
    found = over_items(first, second)
    expected = binomtest(18, 25).pvalue
    assert found.mean == pytest.approx(0.11)
    assert found.p == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 10_000) ** 0.5)
    # the mean's spread by hand: 25 of 100 differ by one, so that it is sqrt(0.25 - 0.11^2) / 10
    spread = (0.25 - 0.11**2) ** 0.5 / 10
    assert found.low == pytest.approx(0.11 - 1.96 * spread, abs=0.01)
    assert found.high == pytest.approx(0.11 + 1.96 * spread, abs=0.01)


def test_equal_recipes_are_found_different_seldom() -> None:
    """In 5 % of 200 trials: at most 10 + 4 standard deviations of 3."""
    rng = np.random.default_rng(1)
    trials = [over_items(rng.random(40), rng.random(40), seed=i) for i in range(200)]
    assert sum(each.stands for each in trials) <= 22


def test_seeds_are_student_s_paired_test() -> None:
    """As scipy has it; without any spread it is certain."""
    first, second = [0.91, 0.93, 0.92], [0.90, 0.905, 0.903]
    found = over_seeds(first, second)
    assert found.p == pytest.approx(float(ttest_rel(first, second).pvalue))
    assert found.low < found.mean < found.high
    assert over_seeds([0.5, 0.5], [0.5, 0.5]).p == 1.0
    assert over_seeds([0.6, 0.6], [0.5, 0.5]).stands
    with pytest.raises(ValueError, match="two or more"):
        over_seeds([0.5], [0.4])


def test_many_comparisons_cost() -> None:
    """By hand: the smallest of four counts fourfold, the next threefold, and none is below one before it."""
    assert holm([0.01, 0.5, 0.04, 0.03]) == pytest.approx([0.04, 0.5, 0.09, 0.09])


@pytest.mark.parametrize(
    ("items", "seeds", "said"),
    [
        (Difference(0.01, -0.01, 0.03, 0.4), None, "within chance"),
        (Difference(0.02, 0.01, 0.03, 0.01), None, "seeds were not varied"),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, 0.01, 0.03, 0.02), "it stands ("),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, -0.01, 0.05, 0.2), "within chance over seeds"),
    ],
)
def test_it_is_said_in_words(items: Difference, seeds: Difference | None, said: str) -> None:
    """Stands, or chance."""
    assert said in in_words("a", "b", items, seeds)
