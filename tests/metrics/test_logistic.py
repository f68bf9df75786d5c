"""Learned logistic weights, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from basereward.metrics.logistic import logistic_weights


def test_weights_equal_scikit_learn() -> None:
    """With normalised margins and the same penalty; scikit-learn gets every pair as a win and, negated, as a loss."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400) + 0.8
    margins = np.stack([truth + rng.normal(size=400), 0.3 * truth + rng.normal(size=400), rng.normal(size=400)])
    margins /= (margins.std(1) + np.abs(margins.mean(1)))[:, None]
    weights, intervals = logistic_weights(margins)
    # Two copies of every pair double the likelihood, so that the penalty is halved.
    reference = LogisticRegression(fit_intercept=False, C=0.5, tol=1e-10, max_iter=10_000)
    reference.fit(np.concatenate([margins.T, -margins.T]), [1] * 400 + [0] * 400)
    assert weights == pytest.approx(reference.coef_[0], abs=1e-4)
    assert all(low < weight < high for weight, (low, high) in zip(weights, intervals, strict=True))
    assert intervals[0][0] > 0 > intervals[2][0]


def test_weights_of_separable_pairs_are_finite() -> None:
    """The penalty bounds them."""
    weights, _ = logistic_weights(np.abs(np.random.default_rng(0).normal(size=(2, 50))))
    assert np.isfinite(weights).all()


def test_bootstrap_draws_whole_groups() -> None:
    """Twenty groups of five equal pairs have the intervals of twenty pairs, with a fifth of the penalty because every
    pair occurs five times. Drawn one by one, the intervals would be less than half as wide."""
    rng = np.random.default_rng(1)
    margins = rng.normal(size=(2, 20)) + 0.5
    repeated = np.repeat(margins, 5, axis=1)
    weights, intervals = logistic_weights(repeated, groups=[i // 5 for i in range(100)])
    expected_weights, expected_intervals = logistic_weights(margins, penalty=0.2)
    assert weights == pytest.approx(expected_weights)
    assert np.array(intervals) == pytest.approx(np.array(expected_intervals))
    intervals_without_groups = np.array(logistic_weights(repeated)[1])
    assert (np.diff(intervals_without_groups) < np.diff(np.array(intervals)) / 2).all()
