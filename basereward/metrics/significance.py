"""Significance tests of the differences between recipes.

Recipes are compared by their correct pairs in the same G groups. Pairs of one group depend on each other, so the
permutation test exchanges whole groups. A recipe has R runs, one per seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, ttest_rel

LEVEL = 0.05
"""Largest probability of a significant difference."""
ROUNDING = 1e-9
"""A spread of shares below this is rounding: the smallest real one is one pair among all pairs."""
P_FLOOR = 1e-15
"""Probabilities are sums in float64, which are exact to about this."""

RunScores: TypeAlias = Mapping[str, NDArray[np.int64]]
"""Number of correct pairs in each group, `(G,)`, of each run of a recipe, by its seeds."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Share of correct pairs of one recipe minus that of another.

    Attributes:
        mean: the difference.
        low: lower limit of its interval, adjusted like `p`: it excludes 0 if and only if the difference is significant.
        high: upper limit.
        p: probability of a difference at least as large by chance, adjusted for all comparisons.

    >>> Difference(mean=0.1, low=0.02, high=0.18, p=0.01).is_significant
    True
    """

    mean: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant."""
        return self.p < LEVEL


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best recipe compared with another one.

    Attributes:
        better: name of the recipe with the larger share.
        other: name of the other recipe.
        items: the difference on other test items, with the runs as they are.
        seeds: the difference with other seeds; None when nothing is known about it.
        words: a sentence about both, with the reason when `seeds` is None.

    >>> gap = Difference(mean=0.1, low=0.02, high=0.18, p=0.01)
    >>> Comparison("deep", "linear", items=gap, seeds=None, words="deep is better").items.mean
    0.1
    """

    better: str
    other: str
    items: Difference
    seeds: Difference | None
    words: str


def compare(recipes: Mapping[str, RunScores], pairs: NDArray[np.int64]) -> list[Comparison]:
    """Compare the recipe with the largest share of correct pairs, the mean over its runs, with every other one.

    The best recipe is chosen on the same data. So the probabilities are adjusted, by `holm`, for the comparisons of all
    k (k - 1) / 2 pairs of the k recipes, of which the returned ones are a part whichever recipe is the best: when all
    recipes are equal, any difference is significant in at most 5 % of cases. An interval has the level at which Holm's
    method tests its difference, so that it excludes 0 if and only if the adjusted probability is below 5 %. With two
    recipes it is the usual 95 % interval.

    For other items, the probability is that of `sign_flip_p` and the interval that of `sign_flip_interval`. For other
    seeds, both come from `paired_t_test` on the seeds that the two recipes share.

    Args:
        recipes: by name.
        pairs: `(G,)`, number of pairs in each group.

    >>> deep, linear = {"seed=0": np.array([1, 1, 1, 1])}, {"seed=0": np.array([1, 0, 1, 0])}
    >>> (comparison,) = compare({"linear": linear, "deep": deep}, np.ones(4, int))
    >>> comparison.better, comparison.items.mean, comparison.items.is_significant
    ('deep', 0.5, False)
    """
    p_items, p_seeds = _p_values(recipes, pairs)
    adjusted_items, adjusted_seeds = _adjust(p_items), _adjust(p_seeds)
    best = max(recipes, key=lambda name: float(np.mean([correct.sum() for correct in recipes[name].values()])))
    comparisons = []
    for other in recipes:
        if other == best:
            continue
        key = frozenset((best, other))
        comparisons.append(
            _compare_two(
                best,
                other,
                recipes,
                pairs,
                items_test=adjusted_items[key],
                seeds_test=adjusted_seeds.get(key),
                num_comparisons=(len(p_items), len(p_seeds)),
            )
        )
    return comparisons


def _p_values(
    recipes: Mapping[str, RunScores], pairs: NDArray[np.int64]
) -> tuple[dict[frozenset[str], float], dict[frozenset[str], float]]:
    """Unadjusted probabilities of all comparisons over items; and over seeds, where they are known."""
    p_items: dict[frozenset[str], float] = {}
    p_seeds: dict[frozenset[str], float] = {}
    for first, second in combinations(recipes, 2):
        key = frozenset((first, second))
        p_items[key] = sign_flip_p(_differences(recipes[first], recipes[second])[0])
        over_seeds = _over_seeds(recipes[first], recipes[second], pairs)
        if over_seeds is not None:
            p_seeds[key] = over_seeds.p
    return p_items, p_seeds


def sign_flip_p(differences: NDArray[np.int64]) -> float:
    """Exact two-sided p value of the sum of differences, when the sign of each is random (paired permutation test).

    Args:
        differences: `(G,)`, integers; of two recipes in each group.

    >>> sign_flip_p(np.array([1, 1, 1, 0]))  # three coins that all show heads, or all tails
    0.25
    """
    sizes = np.abs(differences[differences != 0])
    if not sizes.size or not differences.sum():
        return 1.0
    unit = np.gcd.reduce(sizes)
    observed, largest = abs(int(differences.sum())) // unit, int(sizes.sum()) // unit
    # The distribution of the sum over -largest .. largest is the inverse Fourier transform of its characteristic
    # function, a product of one cosine per size. This is exact, and needs no enumeration of the 2^G signs.
    length = 2 * largest + 1
    frequencies = np.arange(largest + 1)
    spectrum = np.ones(largest + 1)
    for size, count in zip(*np.unique(sizes // unit, return_counts=True), strict=True):
        spectrum *= np.cos(2 * math.pi / length * (frequencies * size % length)) ** count
    probabilities = np.fft.irfft(spectrum, n=length)[: largest + 1]
    # The smallest possible value: all signs are alike in two of the 2^G cases.
    smallest = max(P_FLOOR, 2.0 ** (1 - sizes.size))
    return float(np.clip(2 * probabilities[observed:].sum(), smallest, 1.0))


def sign_flip_interval(
    differences: NDArray[np.float64], pairs: NDArray[np.int64], *, p: float, level: float = LEVEL
) -> tuple[float, float]:
    """The differences of shares that the paired permutation test does not reject at a level.

    Of a supposed difference d, the test statistic is the sum of `differences - d * pairs`, with the normal
    approximation of its distribution under random signs. The approximation is corrected so that it is exact at d = 0:
    the interval excludes 0 if and only if `p < level`.

    Args:
        differences: `(G,)`, of the correct pairs of two recipes in each group.
        pairs: `(G,)`, number of pairs in each group.
        p: `sign_flip_p` of the differences.
        level: of the test; 0.05 gives a 95 % interval.

    Returns:
        Lower and upper limit, within -1 and 1.

    >>> better = np.array([1.0] * 60 + [-1.0] * 20 + [0.0] * 120)
    >>> low, high = sign_flip_interval(better, np.ones(200, int), p=sign_flip_p(better.astype(int)))
    >>> round(low, 2), round(high, 2)
    (0.12, 0.28)
    """
    z, total = float(norm.isf(level / 2)), abs(float(differences.sum()))
    exact = math.sqrt(float((differences**2).sum())) * float(norm.isf(p / 2))
    # Where the normal distribution gives a smaller p than the exact one, because sums are whole numbers, the correction
    # is one of continuity; where it gives a larger one, in its far tail, it is a factor.
    continuity = max(0.0, total - exact)
    if exact > total:
        z *= total / exact
    low = _score_limit(differences, pairs, z=z, shift=-continuity)
    # The upper limit is the lower one of the recipes in the other order.
    return low, -_score_limit(-differences, pairs, z=z, shift=-continuity)


def _score_limit(differences: NDArray[np.float64], pairs: NDArray[np.int64], *, z: float, shift: float) -> float:
    """The smallest d with `(sum(differences) + shift - d * N)^2 <= z^2 * sum((differences - d * pairs)^2)`."""
    total, num_pairs = float(differences.sum()) + shift, float(pairs.sum())
    # a d^2 + b d + c <= 0
    a = num_pairs**2 - z**2 * float((pairs**2).sum())
    b = -2 * (total * num_pairs - z**2 * float((differences * pairs).sum()))
    c = total**2 - z**2 * float((differences**2).sum())
    if a > 0:
        return max(-1.0, (-b - math.sqrt(max(0.0, b**2 - 4 * a * c))) / (2 * a))
    # So few groups that large differences cannot be rejected. Zero can be, and then the limit is above it.
    if c > 0 and total > 0:
        return min(1.0, float(max(np.roots([a, b, c]).real)))
    return -1.0


def paired_t_test(first: Sequence[float], second: Sequence[float], *, level: float = LEVEL) -> Difference | None:
    """Compare two recipes with the same seeds by Student's paired t test.

    Args:
        first: one share per seed.
        second: the same of the other recipe, in the same order of seeds.
        level: of the test that the interval belongs to; 0.05 gives a 95 % interval.

    Returns:
        None when the differences vary by rounding alone: then they say nothing about other seeds.

    Raises:
        ValueError: fewer than two seeds, or different numbers of seeds.

    >>> difference = paired_t_test([0.91, 0.93, 0.92], [0.90, 0.905, 0.903])
    >>> round(difference.mean, 4), round(difference.p, 2)
    (0.0173, 0.06)
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} seeds given; allowed are two or more, as many of both")
    differences = np.asarray(first, float) - np.asarray(second, float)
    if np.ptp(differences) < ROUNDING:
        return None
    test = ttest_rel(first, second)
    interval = test.confidence_interval(1 - level)
    return Difference(float(differences.mean()), float(interval.low), float(interval.high), float(test.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values of several comparisons by Holm's method (1979).

    When all null hypotheses hold, the smallest adjusted value is below 5 % in at most 5 % of cases.

    Args:
        values: p values.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    adjusted = [0.0] * len(values)
    # Holm's step-down: an adjusted value is not below that of a smaller p value.
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(values[index] * (len(values) - rank), 1.0))
        adjusted[index] = largest
    return adjusted


def holm_levels(values: Sequence[float]) -> list[float]:
    """The level at which Holm's method tests each of several p values.

    A value is below its level if and only if its adjusted value is below `LEVEL`. Levels of values that are not
    significant are equal, that of the first one at which the method stops.

    Args:
        values: p values.

    >>> [round(level, 4) for level in holm_levels([0.001, 0.04, 0.03])]
    [0.0167, 0.025, 0.025]
    """
    significant = sum(value < LEVEL for value in holm(values))
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    # If all are significant, the last one has been tested alone.
    last = min(significant, len(values) - 1)
    return [LEVEL / (len(values) - min(int(rank), last)) for rank in ranks]


def describe_difference(
    better: str,
    other: str,
    items: Difference,
    seeds: Difference | None,
    *,
    pairs: int,
    no_seeds_reason: str,
    num_comparisons: tuple[int, int] = (1, 1),
) -> str:
    """Describe the difference of two recipes in one sentence.

    Args:
        better: name of the recipe with the larger share.
        other: name of the other recipe.
        items: difference on other items.
        seeds: difference with other seeds; None when unknown.
        pairs: number of pairs on which both are counted.
        no_seeds_reason: why `seeds` is None.
        num_comparisons: numbers of comparisons for which the probabilities of `items` and of `seeds` are adjusted.

    >>> better = Difference(0.02, 0.01, 0.03, 0.001)
    >>> describe_difference("silu", "tanh", better, None, pairs=900, no_seeds_reason="each has one run")
    'silu beats tanh by 2.0 points (1.0 to 3.0) on the same 900 pairs: significant for these runs (p = 0.001); each \
has one run'
    >>> by_chance = Difference(0.051, -0.004, 0.106, 0.11)
    >>> describe_difference("silu", "tanh", by_chance, None, pairs=900, no_seeds_reason="", num_comparisons=(21, 1))
    'silu and tanh differ by 5.1 points (-0.4 to 10.6) on the same 900 pairs: not significant among 21 comparisons \
(p = 0.11)'
    """
    among_items, among_seeds = (_among(number) for number in num_comparisons)
    points = f"{100 * items.mean:.1f} points ({_interval(items)}) on the same {pairs:,} pairs"
    if not items.is_significant or items.mean <= 0:
        return f"{better} and {other} differ by {points}: not significant{among_items} (p = {items.p:.2g})"
    if seeds is None:
        verdict = f"significant for these runs{among_items} (p = {items.p:.2g}); {no_seeds_reason}"
    else:
        over_seeds = f"{_interval(seeds)} over seeds, p = {seeds.p:.2g}{among_seeds}"
        verdict = "significant" if seeds.is_significant else "significant on these items, not over seeds"
        verdict = f"{verdict} ({over_seeds})"
    return f"{better} beats {other} by {points}: {verdict}"


def _interval(difference: Difference) -> str:
    """The interval in points."""
    return f"{100 * difference.low:.1f} to {100 * difference.high:.1f}"


def _among(num_comparisons: int) -> str:
    return f" among {num_comparisons} comparisons" if num_comparisons > 1 else ""


@dataclass(frozen=True, slots=True)
class _AdjustedTest:
    """One of several tests: its p value alone, the adjusted one, and the level at which the first one is tested."""

    p_alone: float
    p: float
    level: float


def _adjust(p: Mapping[frozenset[str], float]) -> dict[frozenset[str], _AdjustedTest]:
    values = [*p.values()]
    tests = [_AdjustedTest(*test) for test in zip(values, holm(values), holm_levels(values), strict=True)]
    return dict(zip(p, tests, strict=True))


def _compare_two(
    better: str,
    other: str,
    recipes: Mapping[str, RunScores],
    pairs: NDArray[np.int64],
    *,
    items_test: _AdjustedTest,
    seeds_test: _AdjustedTest | None,
    num_comparisons: tuple[int, int],
) -> Comparison:
    first, second = recipes[better], recipes[other]
    items = _over_items(first, second, pairs, test=items_test)
    seeds = None
    if seeds_test is not None:
        unadjusted = _over_seeds(first, second, pairs, level=seeds_test.level)
        seeds = replace(unadjusted, p=seeds_test.p) if unadjusted is not None else None
    words = describe_difference(
        better,
        other,
        items,
        seeds,
        pairs=int(pairs.sum()),
        no_seeds_reason=_no_seeds_reason(first, second),
        num_comparisons=num_comparisons,
    )
    return Comparison(better, other, items, seeds, words)


def _differences(first: RunScores, second: RunScores) -> tuple[NDArray[np.int64], int]:
    """Correct pairs of the mean run of the first recipe minus those of the second, in each group.

    Returns:
        `(G,)` integers, in fractions of a pair so that the mean over runs is exact; and the number of fractions of a
        pair.
    """
    fractions = math.lcm(len(first), len(second))
    first_sum = fractions // len(first) * np.sum([*first.values()], axis=0)
    second_sum = fractions // len(second) * np.sum([*second.values()], axis=0)
    return first_sum - second_sum, fractions


def _over_items(first: RunScores, second: RunScores, pairs: NDArray[np.int64], *, test: _AdjustedTest) -> Difference:
    differences, fractions = _differences(first, second)
    low, high = sign_flip_interval(differences / fractions, pairs, p=test.p_alone, level=test.level)
    return Difference(float(differences.sum() / fractions / pairs.sum()), low, high, test.p)


def _over_seeds(
    first: RunScores, second: RunScores, pairs: NDArray[np.int64], *, level: float = LEVEL
) -> Difference | None:
    """The difference on the seeds that both have, its p not adjusted; None when nothing is known."""
    shared_seeds = sorted(first.keys() & second.keys())
    if len(shared_seeds) < 2:
        return None
    first_shares = [float(first[seed].sum() / pairs.sum()) for seed in shared_seeds]
    second_shares = [float(second[seed].sum() / pairs.sum()) for seed in shared_seeds]
    return paired_t_test(first_shares, second_shares, level=level)


def _no_seeds_reason(first: RunScores, second: RunScores) -> str:
    """Why nothing is known about other seeds, if so."""
    if len(first) == len(second) == 1:
        return "each has one run, which says nothing of other seeds"
    if len(first.keys() & second.keys()) < 2:
        return f"of their {len(first)} and {len(second)} runs fewer than two have seeds in common"
    return "they differ by as much with every seed, which says nothing of others"
