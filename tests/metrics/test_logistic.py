"""Learned weights against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from basereward.metrics.logistic import logistic_weights


def test_weights_are_those_of_scikit_learn() -> None:
    """On margins of spread one, with the same penalty; every pair as a win and, turned round, as a loss."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400) + 0.8
    margins = np.stack([truth + rng.normal(size=400), 0.3 * truth + rng.normal(size=400), rng.normal(size=400)])
    margins /= (margins.std(1) + np.abs(margins.mean(1)))[:, None]
    weights, intervals = logistic_weights(margins)
    # Two copies of every pair double the likelihood, so that the penalty is halved.
    theirs = LogisticRegression(fit_intercept=False, C=0.5, tol=1e-10, max_iter=10_000)
    theirs.fit(np.concatenate([margins.T, -margins.T]), [1] * 400 + [0] * 400)
    assert weights == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert all(low < weight < high for weight, (low, high) in zip(weights, intervals, strict=True))
    assert intervals[0][0] > 0 > intervals[2][0]


def test_pairs_that_one_score_tells_apart_leave_weights_finite() -> None:
    """By the penalty."""
    weights, _ = logistic_weights(np.abs(np.random.default_rng(0).normal(size=(2, 50))))
    assert np.isfinite(weights).all()


def test_pairs_of_one_group_are_drawn_together() -> None:
    """Twenty groups of five equal pairs say no more than twenty pairs: the intervals are theirs, with a fifth of the
    penalty since every pair stands there five times; drawn one by one they would be less than half as wide."""
    rng = np.random.default_rng(1)
    margins = rng.normal(size=(2, 20)) + 0.5
    five = np.repeat(margins, 5, axis=1)
    weights, intervals = logistic_weights(five, groups=[i // 5 for i in range(100)])
    once, between = logistic_weights(margins, penalty=0.2)
    assert weights == pytest.approx(once)
    assert np.array(intervals) == pytest.approx(np.array(between))
    alone = np.array(logistic_weights(five)[1])
    assert (np.diff(alone) < np.diff(np.array(intervals)) / 2).all()
