"""Accuracy of predictions by their confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15
"""The usual number since Guo et al. 2017, arXiv 1706.04599."""


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width from 0 to 1.

    Attributes:
        edges: of the bins.
        pairs: number of pairs in each bin.
        called: mean confidence in each bin that is not empty.
        right: share of correct predictions in each bin that is not empty.
        error: expected calibration error; NaN without pairs.

    >>> reliability([]).error
    nan
    """

    edges: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]
    called: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    error: float


def reliability(margins: npt.ArrayLike) -> Reliability:
    """Bin the response with the higher score: confidence sigmoid(|margin|), correct when margin > 0.

    Args:
        margins: `(P,)`: score(winner) - score(loser), without ties.

    >>> bins = reliability([20.0, -20.0])  # two confident predictions, one of them wrong
    >>> bins.pairs.sum(), bins.right, round(bins.error, 3)
    (np.int64(2), array([0.5]), 0.5)
    """
    values = np.asarray(margins, dtype=np.float64).reshape(-1)
    confidence = 1 / (1 + np.exp(-np.abs(values)))
    edges = np.linspace(0, 1, BINS + 1)
    # A confidence of exactly 1 lies on the last edge, for which `digitize` returns one bin too many.
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    pairs = np.bincount(bins, minlength=BINS)
    used = pairs > 0
    right = np.bincount(bins, values > 0, minlength=BINS)[used] / pairs[used]
    called = np.bincount(bins, confidence, minlength=BINS)[used] / pairs[used]
    error = float(np.sum(pairs[used] * np.abs(right - called)) / len(values)) if len(values) else float("nan")
    return Reliability(edges, pairs, called, right, error)
