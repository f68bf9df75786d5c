"""Whether a difference between two recipes stands, or is what chance would make of equal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

DRAWS = 10_000
PIECES = 20
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """The first's mean less the second's, its 95 % interval, and how often chance alone would give one as large."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def stands(self) -> bool:
        return self.p < LEVEL


def over_items(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Difference:
    """Two recipes on the same items: the interval by bootstrap over items, the probability by exchanging the two on
    every item at random.

    Args:
        first, second: of every item, such as the share of a group's preferences that are right.

    Raises:
        ValueError: there are no items, or not as many of both.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    if not len(differences):
        raise ValueError("there are no items to compare")
    rng = np.random.default_rng(seed)
    mean = float(differences.mean())
    count = len(differences)
    # Draws in pieces, so that many items need no more memory than few.
    pieces = [(DRAWS // PIECES, count)] * PIECES
    drawn = np.concatenate([differences[rng.integers(0, count, shape)].mean(1) for shape in pieces])
    low, high = np.percentile(drawn, [2.5, 97.5])
    flipped = np.concatenate([(rng.integers(0, 2, shape) * 2 - 1) @ differences / count for shape in pieces])
    as_large = int((np.abs(flipped) >= abs(mean) - 1e-12).sum())
    return Difference(mean, float(low), float(high), (as_large + 1) / (DRAWS + 1))


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Two recipes with the same seeds: Student's paired t test.

    Raises:
        ValueError: fewer than two seeds, of which nothing can be said.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} seeds; two or more, as many of both, are needed")
    differences = np.asarray(first, float) - np.asarray(second, float)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # no spread at all
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    found = ttest_rel(first, second)
    interval = found.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(found.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """Probabilities of several comparisons, made larger so that one of all is below 5 % by chance at most 5 % of the
    time (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    found = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(values[index] * (len(values) - rank), 1.0))
        found[index] = largest
    return found


def in_words(better: str, other: str, items: Difference, seeds: Difference | None) -> str:
    """A sentence about the difference in accuracy of two recipes.

    >>> in_words("silu", "tanh", Difference(0.02, 0.01, 0.03, 0.001), None)
    'silu beats tanh by 2.0 points (1.0 to 3.0) on the same items: it stands for these runs; seeds were not varied'
    """
    told = f"{100 * items.mean:.1f} points ({100 * items.low:.1f} to {100 * items.high:.1f}) on the same items"
    if not items.stands or items.mean <= 0:
        return f"{better} and {other} differ by {told}: that is within chance (p = {items.p:.2g})"
    if seeds is None:
        return f"{better} beats {other} by {told}: it stands for these runs; seeds were not varied"
    over = f"{100 * seeds.low:.1f} to {100 * seeds.high:.1f} over seeds, p = {seeds.p:.2g}"
    verdict = "it stands" if seeds.stands else "it stands on these items, and is within chance over seeds"
    return f"{better} beats {other} by {told}: {verdict} ({over})"
