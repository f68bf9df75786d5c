"""Weights of several scores, learned from pairs of which one is better."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DRAWS = 200


def logistic_weights(
    margins: NDArray[np.float64], *, penalty: float = 1.0, seed: int = 0
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Logistic regression without an intercept: the probability that the winner wins is the sigmoid of the weighted
    margins.

    Args:
        margins: `(M, P)`, of M scores over P pairs, each the winner's less the loser's.
        penalty: of half the sum of squares of the weights for margins of spread one; it keeps them finite where some
            weights tell all pairs apart.
        seed: of the bootstrap over pairs.

    Returns:
        M weights, for margins as they are, and their 95 % intervals by bootstrap.
    """
    scale = margins.std(1, ddof=0) + np.abs(margins.mean(1)) + 1e-12
    scaled = margins / scale[:, None]
    found = _fit(scaled, penalty) / scale
    rng = np.random.default_rng(seed)
    count = scaled.shape[1]
    draws = np.array([_fit(scaled[:, rng.integers(0, count, count)], penalty) / scale for _ in range(DRAWS)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return tuple(found.tolist()), tuple(zip(low.tolist(), high.tolist(), strict=True))


def _fit(margins: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Newton's method; the loss is strictly convex."""
    weights = np.zeros(len(margins))
    for _ in range(100):
        wrong = 1 / (1 + np.exp(np.clip(weights @ margins, -500, 500)))  # sigmoid(-margin)
        gradient = penalty * weights - margins @ wrong
        curvature = (margins * (wrong * (1 - wrong))) @ margins.T + penalty * np.eye(len(margins))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return weights
