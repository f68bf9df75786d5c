"""Accuracy of a judge by the number of its votes, and the difference of accuracies on two sets of items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from basereward.evaluation.items import Decision, JudgedItem
from basereward.evaluation.statistics.measures import Measure, Measures, accuracy
from basereward.evaluation.statistics.shares import Added, CountedPart, share, weighted

RESAMPLES = 2000
SEED = 0
MIN_VOTES = 3
"""With two votes, a majority needs both; only three or more can give another result than one vote."""


def accuracy_over_votes(
    judged: Sequence[JudgedItem], *, categories: Mapping[str, Sequence[JudgedItem]] | None = None
) -> Measures:
    """The accuracy of majority votes of 1, 3, 5, ... of the votes of every item.

    The accuracy of k votes is the mean over all choices of k of the K votes of an item, so that all votes are used at
    every k. If votes are independent and right with chance p, its expected value is that of a binomial majority, the
    chance that more than half of k are right. An item without a majority is not right, and neither is a vote that could
    not be read. The interval is over prompts.

    Args:
        judged: items with votes.
        categories: the same items by category; adds `macro`, the mean of the accuracies of the categories.

    Returns:
        `overall`, of the majority of all votes; `votes_k`, and with categories `macro votes_k`, for every odd k up to
        the smallest number of votes of an item. Outcomes that are no votes, or fewer than 3, give a measure without a
        denominator.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> measures = accuracy_over_votes([JudgedItem(item, Outcome(votes=(0, 0, 1)))])
    >>> {name: round(measure.value, 3) for name, measure in measures.items()}
    {'overall': 1.0, 'votes_1': 0.667, 'votes_3': 1.0}
    """
    most = min((len(judged_item.outcome.votes or ()) for judged_item in judged), default=0)
    if most < MIN_VOTES:
        return {"overall": Measure(0, 0)}
    measures = {"overall": accuracy(judged)}
    for votes in range(1, most + 1, 2):
        measures[f"votes_{votes}"] = share(right_of_votes(judged, votes=votes))
        if categories is not None:
            parts = [CountedPart(1.0, right_of_votes(members, votes=votes)) for members in categories.values()]
            measures[f"macro votes_{votes}"] = weighted(parts)
    return measures


def right_of_votes(judged: Sequence[JudgedItem], *, votes: int) -> list[Added]:
    """Count each item by the share of all choices of `votes` of its votes in which more than half are right.

    Args:
        judged: items with at least `votes` votes.
        votes: that are chosen.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> round(right_of_votes([JudgedItem(item, Outcome(votes=(0, 0, 1, None)))], votes=3)[0].got, 6)
    0.5
    """
    # Items with the same numbers have the same share, and there are few different numbers.
    shares: dict[tuple[int, int], float] = {}
    added: list[Added] = []
    for judged_item in judged:
        cast = judged_item.outcome.votes or ()
        key = (len(cast), sum(vote in judged_item.item.right for vote in cast))
        if key not in shares:
            shares[key] = float(hypergeom.sf(votes // 2, key[0], key[1], votes))
        added.append(Added(judged_item.item.prompt_id, shares[key]))
    return added


@dataclass(frozen=True, kw_only=True)
class AccuracyDifference:
    """The accuracy on some items minus that on others, with its 95 % interval.

    Attributes:
        first, second: the accuracies; None without a decided item.
        value: their difference; None where one of them is missing.
        low, high: of the interval; None with fewer than two prompts.
    """

    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        """The numbers as JSON.

        >>> AccuracyDifference(first=0.5, second=0.75, value=-0.25, low=-0.5, high=0.0).as_dict()["value"]
        -0.25
        """
        return {name: getattr(self, name) for name in ("first", "second", "value", "low", "high")}


def accuracy_difference(first: Sequence[JudgedItem], second: Sequence[JudgedItem]) -> AccuracyDifference:
    """The accuracy of one model on `first` minus that on `second`. Undecided items are left out, ties are wrong.

    The interval is a percentile bootstrap over all prompts of both together, because an item may be in both.

    Args:
        first: items with outcomes.
        second: other items, or some of the same.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> right, wrong = (JudgedItem(item, Outcome(correct=correct)) for correct in (True, False))
    >>> accuracy_difference([right, wrong], [right]).value
    -0.5
    """
    places: dict[str, int] = {}
    for judged_item in (*first, *second):
        places.setdefault(judged_item.item.prompt_id, len(places))
    sums = np.zeros((len(places), 4))
    for column, members in ((0, first), (2, second)):
        for judged_item in members:
            if judged_item.decision is not Decision.UNDECIDED:
                row = places[judged_item.item.prompt_id]
                sums[row, column : column + 2] += judged_item.is_right, 1.0
    shares = _ratios(sums.sum(axis=0)[None])[0]
    low, high = _difference_interval(sums)
    one, other = (None if math.isnan(value) else float(value) for value in shares)
    if one is None or other is None:
        return AccuracyDifference(first=one, second=other, value=None, low=None, high=None)
    return AccuracyDifference(first=one, second=other, value=one - other, low=low, high=high)


def _difference_interval(sums: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The interval of the difference of two ratios.

    Args:
        sums: (prompts, 4): right and decided items of the first set, then of the second.
    """
    if len(sums) < 2:
        return None, None
    distinct, counts = np.unique(sums, axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(sums), counts / len(sums), size=RESAMPLES)
    shares = _ratios(drawn @ distinct)
    differences = shares[:, 0] - shares[:, 1]
    # A resample may have no item of one set.
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 4) -> (B, 2): the accuracies of both sets."""
    with np.errstate(invalid="ignore"):
        ratios: NDArray[np.float64] = sums[:, [0, 2]] / sums[:, [1, 3]]
    return ratios
