"""Test weighted sums of shares against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from basereward.evaluation.statistics.shares import Added, CountedPart, share, weighted


def test_interval_of_a_weighted_sum_equals_a_numpy_bootstrap() -> None:
    """Two categories have 60 prompts each, and whole prompts are resampled. The weighted sum with weights 1 and 0.5 is
    divided by 2."""
    generator = np.random.default_rng(2)
    shares = generator.random((60, 2)).round(2)
    parts = [
        CountedPart(weight, [Added(f"p{prompt}", row[category]) for prompt, row in enumerate(shares)])
        for category, weight in enumerate((1.0, 0.5))
    ]
    measure = weighted(parts, of=2.0)
    assert measure.value == pytest.approx((shares[:, 0].mean() + 0.5 * shares[:, 1].mean()) / 2)
    resampled_prompts = generator.integers(0, 60, (4000, 60))
    resampled_values = (shares[resampled_prompts].mean(1) @ np.array([1.0, 0.5])) / 2
    assert measure.interval == pytest.approx(np.percentile(resampled_values, [2.5, 97.5]), abs=0.006)


def test_share_of_counts_stays_whole() -> None:
    """2 of 3 and 1 of 2 comparisons give 3 of 5 as integers; a half stays a float, and an empty share is NaN."""
    measure = share([Added("a", 2.0, 3.0), Added("b", 1.0, 2.0)])
    assert (measure.numerator, measure.denominator) == (3, 5)
    assert isinstance(measure.numerator, int)
    assert share([Added("a", 0.5)]).numerator == 0.5
    assert math.isnan(share([]).value)
    assert share([]).interval is None


def test_mean_with_an_empty_category_is_nan() -> None:
    """The mean of the other category would be a different number under the same name."""
    measure = weighted([CountedPart(1.0, [Added("a", 1.0)]), CountedPart(1.0, [])])
    assert math.isnan(measure.value)
    assert measure.interval is None
    assert measure.as_dict()["value"] is None
