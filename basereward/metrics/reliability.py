"""How often a call of some confidence is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width from 0 to 1: `pairs` of all of them; `called` and `right`, mean confidence and share that is
    right, of those that are not empty; `error`, the expected calibration error, NaN of no pairs."""

    edges: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]
    called: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]
    error: float


def reliability(margins: npt.ArrayLike) -> Reliability:
    """Of the favoured response: confidence sigmoid(|margin|), right when margin > 0.

    Args:
        margins: score(winner) - score(loser) of P preferences, ties left out.

    >>> found = reliability([20.0, -20.0])  # two sure calls, one of them wrong
    >>> found.pairs.sum(), found.right, round(found.error, 3)
    (np.int64(2), array([0.5]), 0.5)
    """
    values = np.asarray(margins, dtype=np.float64).reshape(-1)
    confidence = 1 / (1 + np.exp(-np.abs(values)))
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    pairs = np.bincount(bins, minlength=BINS)
    used = pairs > 0
    right = np.bincount(bins, values > 0, minlength=BINS)[used] / pairs[used]
    called = np.bincount(bins, confidence, minlength=BINS)[used] / pairs[used]
    error = float(np.sum(pairs[used] * np.abs(right - called)) / len(values)) if len(values) else float("nan")
    return Reliability(edges, pairs, called, right, error)
