"""Weighted sums of shares against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from basereward.evaluation.statistics.shares import Added, CountedPart, share, weighted


def test_interval_of_a_weighted_sum_equals_a_bootstrap_by_prompt_written_apart() -> None:
    """Two categories of 60 prompts, two items a prompt: prompts are drawn whole. The weights sum to 1.5, over 2."""
    draw = np.random.default_rng(2)
    got = draw.random((60, 2)).round(2)
    parts = [CountedPart(w, [Added(f"p{i}", row[c]) for i, row in enumerate(got)]) for c, w in enumerate((1.0, 0.5))]
    measure = weighted(parts, of=2.0)
    assert measure.value == pytest.approx((got[:, 0].mean() + 0.5 * got[:, 1].mean()) / 2)
    picked = draw.integers(0, 60, (4000, 60))
    drawn = (got[picked].mean(1) @ np.array([1.0, 0.5])) / 2
    assert measure.interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)


def test_share_of_counts_stays_whole() -> None:
    """2 of 3 comparisons and 1 of 2: 3 of 5, written as whole numbers; a half stays a half; nothing is NaN."""
    measure = share([Added("a", 2.0, 3.0), Added("b", 1.0, 2.0)])
    assert (measure.numerator, measure.denominator) == (3, 5)
    assert isinstance(measure.numerator, int)
    assert share([Added("a", 0.5)]).numerator == 0.5
    assert math.isnan(share([]).value)
    assert share([]).interval is None


def test_mean_with_an_empty_category_is_no_number() -> None:
    """A mean of two over one would be another number under the same name."""
    measure = weighted([CountedPart(1.0, [Added("a", 1.0)]), CountedPart(1.0, [])])
    assert math.isnan(measure.value)
    assert measure.interval is None
    assert measure.as_dict()["value"] is None
