"""Which differences between recipes stand, and which are what chance would make of equal ones.

Recipes compare by their right pairs of the same G groups, whose pairs depend on each other: what is drawn and
exchanged is whole groups. A recipe has R runs, one for each of its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from basereward.metrics.interval import resampled

LEVEL = 0.05
ALIKE = 1e-9  # a spread of shares below this is rounding: the least real one is a pair of all pairs
LEAST = 1e-15  # probabilities are found by sums that are right up to this

RunScores: TypeAlias = Mapping[str, NDArray[np.int64]]
"""Of every run of a recipe, by its seeds, the number of right pairs of each group (G,)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first's share less the second's, its 95 % interval, and how often chance alone would give one as large.

    Among several comparisons `p` is adjusted for them, and `p_alone` is that of this comparison alone, as the interval
    is.
    """

    mean: float
    low: float
    high: float
    p: float
    p_alone: float | None = None

    @property
    def stands(self) -> bool:
        return self.p < LEVEL


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best recipe with another. `seeds` is None where nothing can be said of other seeds; `words` say why."""

    better: str
    other: str
    items: Difference
    seeds: Difference | None
    words: str


def compare(recipes: Mapping[str, RunScores], pairs: NDArray[np.int64]) -> list[Comparison]:
    """The recipe with the largest share of right pairs, the mean over its runs, with every other.

    Which one is best is seen in the same data. So the probabilities are adjusted, by `holm`, for the comparisons of
    every two of the k recipes, k (k - 1) / 2, among which those that are told are, whichever recipe comes out best:
    where all are equal, one or more stand in at most 5 % of cases. The intervals are those of one comparison, and the
    words give the probability of that comparison alone beside them.

    Over items, the interval is by bootstrap over groups, the probability by `exchanged`; over the seeds that two
    recipes share, both are those of `over_seeds`.

    Args:
        pairs: (G,), in each group.
    """
    p_items, p_seeds = {}, {}
    for one, two in combinations(recipes, 2):
        p_items[frozenset((one, two))] = exchanged(_less(recipes[one], recipes[two])[0])
        found = _over_seeds(recipes[one], recipes[two], pairs)
        if found is not None:
            p_seeds[frozenset((one, two))] = found.p
    adjusted, on_seeds = _adjusted(p_items), _adjusted(p_seeds)
    best = max(recipes, key=lambda name: float(np.mean([right.sum() for right in recipes[name].values()])))
    both = {other: frozenset((best, other)) for other in recipes if other != best}
    return [
        _told(
            best,
            other,
            recipes,
            pairs,
            p_items=(adjusted[two], p_items[two]),
            p_seeds=(on_seeds[two], p_seeds[two]) if two in p_seeds else None,
            among=(len(p_items), len(p_seeds)),
        )
        for other, two in both.items()
    ]


def exchanged(differences: NDArray[np.int64]) -> float:
    """How often the sum of whole numbers (G,) is at least as far from 0 as it is, when the sign of each is a coin's:
    the exact probability of the sum where two recipes differ by chance in each group, two-sided.

    >>> exchanged(np.array([1, 1, 1, 0]))  # all heads or all tails of three coins
    0.25
    """
    sizes = np.abs(differences[differences != 0])
    if not sizes.size or not differences.sum():
        return 1.0
    unit = np.gcd.reduce(sizes)
    far, reach = abs(int(differences.sum())) // unit, int(sizes.sum()) // unit
    # The sum's distribution over -reach .. reach from its characteristic function, a product of a cosine for each size.
    length = 2 * reach + 1
    turns = np.arange(reach + 1)
    spectrum = np.ones(reach + 1)
    for size, count in zip(*np.unique(sizes // unit, return_counts=True), strict=True):
        spectrum *= np.cos(2 * math.pi / length * (turns * size % length)) ** count
    chances = np.fft.irfft(spectrum, n=length)[: reach + 1]
    return float(np.clip(2 * chances[far:].sum(), max(LEAST, 2.0 ** (1 - sizes.size)), 1.0))


def over_seeds(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Two recipes with the same seeds: Student's paired t test. None where the differences have no spread but that of
    rounding: by how much others would differ cannot be told from them.

    Raises:
        ValueError: fewer than two seeds, of which nothing can be said.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} seeds; two or more, as many of both, are needed")
    differences = np.asarray(first, float) - np.asarray(second, float)
    if np.ptp(differences) < ALIKE:
        return None
    found = ttest_rel(first, second)
    interval = found.confidence_interval(0.95)
    return Difference(float(differences.mean()), float(interval.low), float(interval.high), float(found.pvalue))


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


def in_words(
    better: str,
    other: str,
    items: Difference,
    seeds: Difference | None,
    *,
    pairs: int,
    unsaid: str,
    among: tuple[int, int] = (1, 1),
) -> str:
    """A sentence about the difference of two recipes.

    Args:
        pairs: that both were counted on.
        unsaid: why nothing is said of seeds.
        among: how many comparisons the probabilities over items and over seeds are adjusted for.

    >>> in_words("silu", "tanh", Difference(0.02, 0.01, 0.03, 0.001), None, pairs=900, unsaid="each has one run")
    'silu beats tanh by 2.0 points (1.0 to 3.0) on the same 900 pairs: it stands for these runs; each has one run'
    >>> found = Difference(0.051, 0.017, 0.087, 0.11, p_alone=0.0052)
    >>> in_words("silu", "tanh", found, None, pairs=900, unsaid="", among=(21, 1))
    'silu and tanh differ by 5.1 points (1.7 to 8.7, p = 0.0052 in this comparison alone) on the same 900 pairs: that \
is within chance among 21 comparisons (p = 0.11)'
    """
    told = f"{100 * items.mean:.1f} points ({_interval(items, among[0])}) on the same {pairs:,} pairs"
    if not items.stands or items.mean <= 0:
        return f"{better} and {other} differ by {told}: that is within chance{_among(among[0])} (p = {items.p:.2g})"
    if seeds is None:
        return f"{better} beats {other} by {told}: it stands for these runs{_among(among[0])}; {unsaid}"
    over = f"{_interval(seeds, among[1])} over seeds, p = {seeds.p:.2g}{_among(among[1])}"
    verdict = "it stands" if seeds.stands else "it stands on these items, and is within chance over seeds"
    return f"{better} beats {other} by {told}: {verdict} ({over})"


def _interval(found: Difference, among: int) -> str:
    """With the probability that belongs to it, where the one that decides is of several comparisons."""
    alone = f", p = {found.p_alone:.2g} in this comparison alone" if among > 1 and found.p_alone is not None else ""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}{alone}"


def _among(comparisons: int) -> str:
    return f" among {comparisons} comparisons" if comparisons > 1 else ""


def _adjusted(p: Mapping[frozenset[str], float]) -> dict[frozenset[str], float]:
    return dict(zip(p, holm([*p.values()]), strict=True))


def _told(
    better: str,
    other: str,
    recipes: Mapping[str, RunScores],
    pairs: NDArray[np.int64],
    *,
    p_items: tuple[float, float],
    p_seeds: tuple[float, float] | None,
    among: tuple[int, int],
) -> Comparison:
    """`p_items` and `p_seeds` are adjusted and alone."""
    first, second = recipes[better], recipes[other]
    items = replace(_over_items(first, second, pairs, p=p_items[0]), p_alone=p_items[1])
    seeds = _over_seeds(first, second, pairs)
    seeds = replace(seeds, p=p_seeds[0], p_alone=p_seeds[1]) if seeds is not None and p_seeds is not None else None
    words = in_words(better, other, items, seeds, pairs=int(pairs.sum()), unsaid=_unsaid(first, second), among=among)
    return Comparison(better, other, items, seeds, words)


def _less(first: RunScores, second: RunScores) -> tuple[NDArray[np.int64], int]:
    """By how many right pairs the mean run of the first is better in each group (G,), in whole parts of a pair, and how
    many parts a pair has."""
    parts = math.lcm(len(first), len(second))
    one, two = (parts // len(runs) * np.sum([*runs.values()], axis=0) for runs in (first, second))
    return one - two, parts


def _over_items(first: RunScores, second: RunScores, pairs: NDArray[np.int64], *, p: float) -> Difference:
    less, parts = _less(first, second)
    sums = np.stack([less / parts, pairs], axis=-1)[:, None]
    low, high = resampled(sums, np.ones(1)) if len(pairs) > 1 else (-1.0, 1.0)
    return Difference(float(less.sum() / parts / pairs.sum()), low, high, p)


def _over_seeds(first: RunScores, second: RunScores, pairs: NDArray[np.int64]) -> Difference | None:
    """On the seeds that both have, unadjusted; None where nothing can be said."""
    both = sorted(first.keys() & second.keys())
    if len(both) < 2:
        return None
    one, two = ([float(runs[seed].sum() / pairs.sum()) for seed in both] for runs in (first, second))
    return over_seeds(one, two)


def _unsaid(first: RunScores, second: RunScores) -> str:
    """Why nothing is said of seeds, where nothing is."""
    if len(first) == len(second) == 1:
        return "each has one run, which says nothing of other seeds"
    if len(first.keys() & second.keys()) < 2:
        return f"of their {len(first)} and {len(second)} runs fewer than two have seeds in common"
    return "they differ by as much with every seed, which says nothing of others"
