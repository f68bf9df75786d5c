"""Scores of answers from verdicts on pairs of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, TypeAlias

Order: TypeAlias = Literal["both", "given", "random"]


def ordered_pairs(count: int, order: Order, *, seed: str = "") -> list[tuple[int, int]]:
    """The ordered pairs of `count` answers that a judge compares; the first of a pair is shown first.

    Args:
        count: K answers.
        order: `both`: every pair twice, once in each order, which cancels position bias; `given`: every pair once, in
            the order of the answers; `random`: every pair once, in an order that depends on `seed`.
        seed: any text, such as the id of the group.

    >>> ordered_pairs(3, "given"), len(ordered_pairs(5, "both"))
    ([(0, 1), (0, 2), (1, 2)], 20)
    """
    pairs = list(combinations(range(count), 2))
    if order == "both":
        both: list[tuple[int, int]] = []
        for i, j in pairs:
            both += [(i, j), (j, i)]
        return both
    if order == "given":
        return pairs
    return [(j, i) if _odd(f"{seed}/{i}/{j}") else (i, j) for i, j in pairs]


def scores(count: int, leads: Mapping[tuple[int, int], Sequence[float | None]]) -> list[float]:
    """The score of each answer in a round-robin of comparisons.

    A lead is by how much the first answer of a pair is better. m_ij is the mean of all leads of i over j, in both
    orders, and the score of i is the sum over j of m_ij, divided by `count`. If every pair was judged, these scores are
    the least-squares fit of score differences to leads; for two answers the difference of scores is the lead. A pair
    without a lead counts as 0.

    Args:
        count: K answers.
        leads: of every ordered pair; None is a verdict that could not be parsed and is ignored.

    Returns:
        K scores; NaN for an answer without any lead.

    >>> scores(2, {(0, 1): [1.0], (1, 0): [-1.0]}), scores(2, {(0, 1): [None]})
    ([0.5, -0.5], [nan, nan])
    """
    sums, judged = [0.0] * count, [False] * count
    for i, j in combinations(range(count), 2):
        values = [value for value in leads.get((i, j), ()) if value is not None]
        values += [-value for value in leads.get((j, i), ()) if value is not None]
        if values:
            # `fsum` is exact, so the order in which verdicts arrive does not change a score.
            lead = math.fsum(values) / len(values)
            sums[i] += lead
            sums[j] -= lead
            judged[i] = judged[j] = True
    return [total / count if known else math.nan for total, known in zip(sums, judged, strict=True)]


def _odd(text: str) -> bool:
    """A coin flip that depends on a text alone, on every machine and in every version of Python."""
    # Python's own `hash` of a text is different in every process.
    return bool(hashlib.sha256(text.encode()).digest()[0] & 1)
