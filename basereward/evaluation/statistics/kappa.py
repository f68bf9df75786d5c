"""Agreement of annotators on the same items: exact agreement, Cohen's and Fleiss' kappa, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from basereward.metrics.interval import wilson

RESAMPLES = 2000
CHUNK = 100
"""Resamples that are drawn at once; it limits the memory."""
SEED = 0
EQUAL = 1e-9
"""Kappas that differ by less are equal: the same fraction of other sums may be rounded otherwise."""

Ratings: TypeAlias = Mapping[str, str]
"""Annotator -> the category that the annotator gave to an item."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval over items; None where it is not defined.

    Kappa is not defined where chance alone would agree on every item, as when all annotators give one category only.
    Its interval is not defined where all resamples have the same kappa, as with perfect agreement: a bootstrap cannot
    say there how sure the number is.

    >>> Estimate(value=0.4, low=0.1, high=0.7).as_dict()
    {'value': 0.4, 'low': 0.1, 'high': 0.7}
    """

    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """The three numbers as JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """The agreement of two annotators on the items that both rated."""

    annotators: tuple[str, str]
    items: int
    exact: Estimate
    cohen: Estimate


@dataclass(frozen=True, kw_only=True)
class AnnotatorAgreement:
    """The agreement of all annotators."""

    items: int
    """items with two ratings or more; all other numbers are of these"""
    exact: Estimate
    """share of the items that got the same category from all of their annotators"""
    cohen: Estimate
    """mean of Cohen's kappa over the pairs of annotators with a common item where it is defined"""
    fleiss: Estimate
    pairs: tuple[PairAgreement, ...]

    def as_dict(self) -> dict[str, Any]:
        """The agreement as JSON."""
        pairs: list[dict[str, Any]] = []
        for pair in self.pairs:
            numbers = {"exact": pair.exact.as_dict(), "cohen": pair.cohen.as_dict()}
            pairs.append({"annotators": list(pair.annotators), "items": pair.items, **numbers})
        return {
            "items": self.items,
            "exact": self.exact.as_dict(),
            "cohen": self.cohen.as_dict(),
            "fleiss": self.fleiss.as_dict(),
            "pairs": pairs,
        }


def annotator_agreement(ratings: Sequence[Ratings]) -> AnnotatorAgreement:
    """Measure how well annotators agree.

    Cohen's kappa (Educational and Psychological Measurement 20, 1960) is of two annotators. Fleiss' kappa
    (Psychological Bulletin 76, 1971) is of any number, and the annotators of different items may be different people.
    Where items have different numbers of ratings, each item counts alike in the observed agreement, and each rating in
    the shares of the categories. Intervals of kappa are percentile bootstraps over items, those of exact agreement are
    Wilson's.

    Args:
        ratings: of each item. Items with fewer than two ratings are left out.

    >>> both = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    >>> agreement = annotator_agreement([{"ann": ann, "bob": bob} for ann, bob in both])
    >>> agreement.exact.value, round(agreement.cohen.value, 3), round(agreement.fleiss.value, 3)
    (0.7, 0.4, 0.394)
    """
    rated = [item for item in ratings if len(item) >= 2]
    table = _RatingSums(rated)
    sums = np.array([table.row(item) for item in rated]).reshape(len(rated), table.width)
    whole = table.statistics(sums.sum(axis=0)[None])
    draws = _resampled(table, sums)
    pairs: list[PairAgreement] = []
    for number, (first, second) in enumerate(table.pairs):
        alike = [item[first] == item[second] for item in rated if first in item and second in item]
        cohen = _estimate(whole, draws, 2 + number)
        pairs.append(PairAgreement(annotators=(first, second), items=len(alike), exact=_share(alike), cohen=cohen))
    return AnnotatorAgreement(
        items=len(rated),
        exact=_share([len(set(item.values())) == 1 for item in rated]),
        cohen=_estimate(whole, draws, 0),
        fleiss=_estimate(whole, draws, 1),
        pairs=tuple(pairs),
    )


def _share(alike: Sequence[bool]) -> Estimate:
    """The share of true values with Wilson's interval, which is not of width 0 where all values are equal."""
    if not alike:
        return Estimate(value=None, low=None, high=None)
    low, high = wilson(sum(alike), len(alike))
    return Estimate(value=sum(alike) / len(alike), low=low, high=high)


class _RatingSums:
    """Sums over items from which all numbers follow, so that a resample of items is a weighted sum of rows.

    A row has the item itself (1), the share of its pairs of ratings that agree, the number of its ratings of each
    category, and for each pair of annotators a table of C x C cells of which one is 1.
    """

    def __init__(self, rated: Sequence[Ratings]) -> None:
        names: set[str] = set()
        categories: set[str] = set()
        common: set[tuple[str, str]] = set()
        for item in rated:
            names |= set(item)
            categories |= set(item.values())
            common |= set(combinations(sorted(item), 2))
        self.pairs = [pair for pair in combinations(sorted(names), 2) if pair in common]
        self._places = {category: place for place, category in enumerate(sorted(categories))}
        self._count = len(categories)
        self.width = 2 + self._count + len(self.pairs) * self._count**2

    def row(self, item: Ratings) -> NDArray[np.float64]:
        """The row of an item."""
        row = np.zeros(self.width)
        counts = row[2 : 2 + self._count]
        for category in item.values():
            counts[self._places[category]] += 1
        row[:2] = 1.0, (counts * (counts - 1)).sum() / (len(item) * (len(item) - 1))
        confusions = row[2 + self._count :].reshape(len(self.pairs), self._count, self._count)
        for confusion, (first, second) in zip(confusions, self.pairs, strict=True):
            if first in item and second in item:
                confusion[self._places[item[first]], self._places[item[second]]] = 1.0
        return row

    def statistics(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of Cohen's kappa, Fleiss' kappa, and Cohen's kappa of each pair.

        Args:
            sums: (B, width), sums of rows.

        Returns:
            (B, 2 + pairs), NaN for what is not defined.
        """
        items, observed = sums[:, 0], sums[:, 1]
        with np.errstate(invalid="ignore", divide="ignore"):
            counts = sums[:, 2 : 2 + self._count]
            shares = counts / counts.sum(axis=1, keepdims=True)
            fleiss = _kappa(observed / items, (shares**2).sum(axis=1))
            tables = sums[:, 2 + self._count :].reshape(len(sums), len(self.pairs), self._count, self._count)
            common = tables.sum(axis=(2, 3))
            exact = np.trace(tables, axis1=2, axis2=3) / common
            chance = (tables.sum(axis=3) * tables.sum(axis=2)).sum(axis=2) / common**2
            cohen = _kappa(exact, chance)
            known = ~np.isnan(cohen)
            mean = np.where(known, cohen, 0.0).sum(axis=1) / known.sum(axis=1)
            return np.column_stack([mean, fleiss, cohen])


def _kappa(observed: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa from observed agreement and that of chance; NaN where chance alone agrees on all items."""
    # Rounding may leave chance agreement just below 1, and the quotient would then be an arbitrary number.
    certain = np.isclose(chance, 1.0, rtol=0.0, atol=1e-12)
    return np.where(certain, math.nan, (observed - chance) / np.where(certain, 1.0, 1.0 - chance))


def _resampled(table: _RatingSums, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The statistics of resamples of items, (RESAMPLES, columns); no rows where there is a single item."""
    if len(sums) < 2:
        return np.zeros((0, 2 + len(table.pairs)))
    # Many rows are equal, so it is enough to draw how often each distinct row occurs in a resample.
    distinct, counts = np.unique(sums, axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    chunks: list[NDArray[np.float64]] = []
    for _ in range(RESAMPLES // CHUNK):
        drawn = rng.multinomial(len(sums), counts / len(sums), size=CHUNK)
        chunks.append(table.statistics(drawn @ distinct))
    return np.concatenate(chunks)


def _estimate(whole: NDArray[np.float64], draws: NDArray[np.float64], column: int) -> Estimate:
    value = float(whole[0, column])
    if math.isnan(value):
        return Estimate(value=None, low=None, high=None)
    # Resamples in which the number is not defined, such as those with one category only, are left out.
    defined = draws[:, column][~np.isnan(draws[:, column])]
    # Of one value, the percentiles would be an interval of width 0.
    if not len(defined) or np.ptp(defined) <= EQUAL:
        return Estimate(value=value, low=None, high=None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(value=value, low=float(low), high=float(high))
