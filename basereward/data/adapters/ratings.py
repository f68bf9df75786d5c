"""Derives preferences from responses that have one rating each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from basereward.data.schema.rejections import RowRejected

RatedPairs: TypeAlias = Literal["all", "largest_gap"]


def compare(rated: Sequence[tuple[Any, float]], *, pairs: RatedPairs, margins: bool) -> dict[str, Any]:
    """Build the cells `responses`, `preferences` and, if requested, `margins` from rated responses.

    Two responses with equal ratings give no preference. A response that occurs in no preference is dropped.

    Args:
        rated: pairs of (response, rating).
        pairs: `all` uses every pair with unequal ratings, `largest_gap` only the pair with the largest difference (the
            first one if several have it).
        margins: whether to add the differences of the ratings as `margins`.

    Raises:
        RowRejected: `not_rated` (fewer than two responses) or `equal_ratings`.

    >>> compare([("a", 3.0), ("b", 5.0), ("c", 3.0)], pairs="all", margins=True)
    {'responses': ['a', 'b', 'c'], 'preferences': [[1, 0], [1, 2]], 'margins': [2.0, 2.0]}
    """
    if len(rated) < 2:
        raise RowRejected("not_rated", f"{len(rated)} responses have a rating; at least two are needed")
    ratings = [rating for _, rating in rated]
    preferences = unequal_pairs(ratings)
    if not preferences:
        raise RowRejected("equal_ratings", f"all {len(rated)} ratings are {ratings[0]:g}")
    if pairs == "largest_gap":
        preferences = [max(preferences, key=lambda pair: ratings[pair[0]] - ratings[pair[1]])]
    # A response without a preference would cost tokens and contribute nothing to the loss.
    kept = sorted(set(itertools.chain.from_iterable(preferences)))
    cells: dict[str, Any] = {
        "responses": [rated[index][0] for index in kept],
        "preferences": [[kept.index(winner), kept.index(loser)] for winner, loser in preferences],
    }
    if margins:
        cells["margins"] = [ratings[winner] - ratings[loser] for winner, loser in preferences]
    return cells


def unequal_pairs(ratings: Sequence[float]) -> list[list[int]]:
    """List [winner, loser] for every two positions with unequal ratings.

    >>> unequal_pairs([7.0, 9.0, 7.0])
    [[1, 0], [1, 2]]
    """
    pairs = []
    for first, second in itertools.combinations(range(len(ratings)), 2):
        if ratings[first] > ratings[second]:
            pairs.append([first, second])
        elif ratings[first] < ratings[second]:
            pairs.append([second, first])
    return pairs
