"""From verdicts on pairs of answers to a score for each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, TypeAlias

Order: TypeAlias = Literal["both", "given", "random"]


def ordered_pairs(count: int, order: Order, *, seed: str = "") -> list[tuple[int, int]]:
    """The pairs of `count` answers that a judge is shown, the first of a pair first.

    Args:
        order: `both`: every pair twice, once in each order, which cancels a judge's liking for a place; `given`: once,
            as the answers come; `random`: once, in an order that `seed` draws.

    >>> ordered_pairs(3, "given"), len(ordered_pairs(5, "both"))
    ([(0, 1), (0, 2), (1, 2)], 20)
    """
    pairs = list(combinations(range(count), 2))
    if order == "both":
        return [shown for i, j in pairs for shown in ((i, j), (j, i))]
    if order == "given":
        return pairs
    return [(j, i) if _odd(f"{seed}/{i}/{j}") else (i, j) for i, j in pairs]


def scores(count: int, found: Mapping[tuple[int, int], Sequence[float | None]]) -> list[float]:
    """The score of each answer, from a round-robin.

    A value is by how much the first answer of its pair leads. The lead of i over j, m_ij, is the mean over all values
    of that pair in both orders; the score of i is the sum over j of m_ij, divided by `count`. Where every pair was
    judged these are the scores whose differences come nearest to the leads (least squares); of two answers the
    difference is the lead. A pair without a value leads nowhere.

    Args:
        count: K answers.
        found: the values of every ordered pair; None is a verdict that could not be read, and is left out.

    Returns:
        K scores; NaN for an answer that no value is about.

    >>> scores(2, {(0, 1): [1.0], (1, 0): [-1.0]}), scores(2, {(0, 1): [None]})
    ([0.5, -0.5], [nan, nan])
    """
    sums, judged = [0.0] * count, [False] * count
    for i, j in combinations(range(count), 2):
        values = [value for value in found.get((i, j), ()) if value is not None]
        values += [-value for value in found.get((j, i), ()) if value is not None]
        if values:
            lead = math.fsum(values) / len(values)
            sums[i], sums[j] = sums[i] + lead, sums[j] - lead
            judged[i] = judged[j] = True
    return [total / count if known else math.nan for total, known in zip(sums, judged, strict=True)]


def _odd(text: str) -> bool:
    return bool(hashlib.sha256(text.encode()).digest()[0] & 1)
