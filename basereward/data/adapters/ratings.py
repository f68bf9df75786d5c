"""Responses with a number each -> preferences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from basereward.data.schema.rejections import RowRejected

RatedPairs: TypeAlias = Literal["all", "largest_gap"]


def compare(rated: Sequence[tuple[Any, float]], *, pairs: RatedPairs, margins: bool) -> dict[str, Any]:
    """The cells `responses` and `preferences`, and `margins` where they are wanted: the differences of the ratings.

    Equal ratings say nothing; a response that is in no pair is left out.

    Args:
        rated: responses and their ratings.
        pairs: `all` of unequal ratings, or only the one of the `largest_gap`, of equals the first.

    >>> compare([("a", 3.0), ("b", 5.0), ("c", 3.0)], pairs="all", margins=True)
    {'responses': ['a', 'b', 'c'], 'preferences': [[1, 0], [1, 2]], 'margins': [2.0, 2.0]}

    Raises:
        RowRejected: `not_rated` (fewer than two) or `equal_ratings`.
    """
    if len(rated) < 2:
        raise RowRejected("not_rated", f"{len(rated)} of the responses are rated; two are needed to compare")
    unequal = [
        (i, j) if rated[i][1] > rated[j][1] else (j, i)
        for i, j in itertools.combinations(range(len(rated)), 2)
        if rated[i][1] != rated[j][1]
    ]
    if not unequal:
        raise RowRejected("equal_ratings", f"all {len(rated)} ratings are {rated[0][1]:g}")
    if pairs == "largest_gap":
        unequal = [max(unequal, key=lambda pair: rated[pair[0]][1] - rated[pair[1]][1])]
    kept = sorted({index for pair in unequal for index in pair})
    cells: dict[str, Any] = {
        "responses": [rated[index][0] for index in kept],
        "preferences": [[kept.index(winner), kept.index(loser)] for winner, loser in unequal],
    }
    return cells | ({"margins": [rated[i][1] - rated[j][1] for i, j in unequal]} if margins else {})
