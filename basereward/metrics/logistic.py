"""Learns weights of several scores from preference pairs, by logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200
"""Bootstrap resamples; each needs a fit."""
MAX_ITERATIONS = 100
"""Newton's method needs about ten; the limit only guards against an endless loop."""
TOLERANCE = 1e-10
"""Largest change of a weight in the last iteration."""


def logistic_weights(
    margins: NDArray[np.float64], *, groups: Sequence[int] | None = None, penalty: float = 1.0, seed: int = 0
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Fit a logistic regression without an intercept.

    The probability that the winner of a pair wins is the sigmoid of the weighted sum of its M margins.

    Args:
        margins: `(M, P)`: score of the winner minus score of the loser, of M scores over P pairs.
        groups: P, the group of each pair; None when every pair is a group of its own.
        penalty: factor of half the sum of squared weights, for margins scaled to a spread of one. It keeps the weights
            finite when they can separate all pairs.
        seed: of the bootstrap.

    Returns:
        M weights, for unscaled margins, and their 95 % intervals by a bootstrap over groups. Pairs of one group share
        responses; a bootstrap over single pairs would give intervals that are too narrow.

    >>> informative, noise = [1.0, 2.0, 1.5, -0.5], [1.0, -1.0, 1.0, -1.0]
    >>> weights, intervals = logistic_weights(np.array([informative, noise]))
    >>> weights[0] > abs(weights[1])
    True
    """
    # A spread of one; the mean is part of it, so that nearly constant margins do not become huge.
    scale = margins.std(1, ddof=0) + np.abs(margins.mean(1)) + 1e-12
    scaled = margins / scale[:, None]
    num_pairs = scaled.shape[1]
    weights = _fit(scaled, np.ones(num_pairs), penalty) / scale
    rng = np.random.default_rng(seed)
    group_of_pair = np.unique(range(num_pairs) if groups is None else groups, return_inverse=True)[1]
    num_groups = group_of_pair.max() + 1
    # The weights of a pair's group are drawn, not the pairs, so that pairs of one group stay together.
    resamples = []
    for _ in range(RESAMPLES):
        occurrences = np.bincount(rng.integers(0, num_groups, num_groups), minlength=num_groups)
        resamples.append(_fit(scaled, occurrences[group_of_pair], penalty) / scale)
    low, high = np.percentile(np.array(resamples), [2.5, 97.5], axis=0)
    return tuple(weights.tolist()), tuple(zip(low.tolist(), high.tolist(), strict=True))


def _fit(margins: NDArray[np.float64], counts: NDArray[Any], penalty: float) -> NDArray[np.float64]:
    """Newton's method; the loss is strictly convex, so it finds the minimum. A pair counts `counts (P,)` times."""
    weights = np.zeros(len(margins))
    for _ in range(MAX_ITERATIONS):
        wrong = 1 / (
            1 + np.exp(np.clip(weights @ margins, -500, 500))
        )  # sigmoid(-margin); clipped, because exp overflows above 709
        gradient = penalty * weights - margins @ (counts * wrong)
        # The Hessian of the penalised loss: positive definite because of the penalty, so that it can be solved.
        curvature = (margins * (counts * wrong * (1 - wrong))) @ margins.T + penalty * np.eye(len(margins))
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < TOLERANCE:
            break
    return weights
