"""Weights of several scores, learned from pairs of which one is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 200


def logistic_weights(
    margins: NDArray[np.float64], *, groups: Sequence[int] | None = None, penalty: float = 1.0, seed: int = 0
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Logistic regression without an intercept: the probability that the winner wins is the sigmoid of the weighted
    margins.

    Args:
        margins: `(M, P)`, of M scores over P pairs, each the winner's less the loser's.
        groups: P, the group that each pair is of; None: every pair is a group of its own.
        penalty: of half the sum of squares of the weights for margins of spread one; it keeps them finite where some
            weights tell all pairs apart.
        seed: of the bootstrap.

    Returns:
        M weights, for margins as they are, and their 95 % intervals by a bootstrap that draws whole groups: pairs of
        one group share answers, so that drawn one by one they would make the intervals too narrow.
    """
    scale = margins.std(1, ddof=0) + np.abs(margins.mean(1)) + 1e-12
    scaled = margins / scale[:, None]
    pairs = scaled.shape[1]
    found = _fit(scaled, np.ones(pairs), penalty) / scale
    rng = np.random.default_rng(seed)
    of_pair = np.unique(range(pairs) if groups is None else groups, return_inverse=True)[1]
    count = of_pair.max() + 1
    drawn = (np.bincount(rng.integers(0, count, count), minlength=count)[of_pair] for _ in range(DRAWS))
    draws = np.array([_fit(scaled, times, penalty) / scale for times in drawn])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return tuple(found.tolist()), tuple(zip(low.tolist(), high.tolist(), strict=True))


def _fit(margins: NDArray[np.float64], times: NDArray[Any], penalty: float) -> NDArray[np.float64]:
    """Newton's method; the loss is strictly convex. Every pair counts so many `times (P,)`."""
    weights = np.zeros(len(margins))
    for _ in range(100):
        wrong = 1 / (1 + np.exp(np.clip(weights @ margins, -500, 500)))  # sigmoid(-margin)
        gradient = penalty * weights - margins @ (times * wrong)
        curvature = (margins * (times * wrong * (1 - wrong))) @ margins.T + penalty * np.eye(len(margins))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return weights
