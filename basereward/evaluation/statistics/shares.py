"""Shares of more than items: of comparisons, of votes, of halves, and weighted sums of such shares.

Intervals are by prompt, since what one prompt adds is not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from basereward.errors import DataError
from basereward.evaluation.items import Decision, ItemKind, JudgedItem
from basereward.evaluation.statistics.measures import Measure
from basereward.metrics.interval import Interval, resampled


class Added(NamedTuple):
    """What one item adds to a share's numerator and denominator."""

    prompt_id: str
    got: float
    of: float = 1.0


class CountedPart(NamedTuple):
    """A share with its weight in a sum."""

    weight: float
    added: Sequence[Added]


def share(added: Sequence[Added], *, ties: int = 0, undecided: int = 0) -> Measure:
    """All that is got of all there is; NaN of nothing.

    >>> share([Added("a", 2, 3), Added("b", 1, 1)]).value
    0.75
    """
    got, of = sum(each.got for each in added), sum(each.of for each in added)
    return Measure(
        int(got) if got == int(got) else got,
        int(of) if of == int(of) else of,
        "bootstrap",
        lambda: _bounds([CountedPart(1.0, added)], of=1.0),
        ties=ties,
        undecided=undecided,
    )


def weighted(parts: Iterable[CountedPart], *, of: float | None = None, ties: int = 0, undecided: int = 0) -> Measure:
    """The weighted sum of shares, over `of` (the sum of the weights unless told).

    It is NaN when a part has nothing: a mean over fewer categories than its name says would be another number.

    >>> weighted([CountedPart(1, [Added("a", 1)]), CountedPart(3, [Added("b", 0), Added("c", 1)])]).value
    0.625
    """
    parts = list(parts)
    total = sum(part.weight for part in parts) if of is None else of
    there = [sum(each.of for each in part.added) for part in parts]
    if not parts or not all(there):
        return Measure(0, 0, ties=ties, undecided=undecided)
    got = sum(
        part.weight * sum(each.got for each in part.added) / all_of for part, all_of in zip(parts, there, strict=True)
    )
    got = total if math.isclose(got, total, rel_tol=1e-12) else got  # a sum of parts of 1 may end a bit above it
    return Measure(got, total, "bootstrap", lambda: _bounds(parts, of=total), ties=ties, undecided=undecided)


def _bounds(parts: Sequence[CountedPart], *, of: float) -> Interval:
    prompts = {name: place for place, name in enumerate(dict.fromkeys(e.prompt_id for p in parts for e in p.added))}
    sums = np.zeros((len(prompts), len(parts), 2))
    for column, part in enumerate(parts):
        np.add.at(sums[:, column], [prompts[e.prompt_id] for e in part.added], np.array([e[1:] for e in part.added]))
    weights = np.array([part.weight for part in parts])
    low, high = resampled(sums, weights)  # of a mean; a sum is as many times that
    scale = float(weights.sum()) / of
    low, high = (1.0 if math.isclose(bound * scale, 1.0, rel_tol=1e-12) else bound * scale for bound in (low, high))
    return low, high


def right(judged: Sequence[JudgedItem], *, undecided: float = 0.0) -> list[Added]:
    """An item each: 1 when it is right, `undecided` when its votes leave it so, else 0."""
    worth = {Decision.RIGHT: 1.0, Decision.UNDECIDED: undecided}
    return [Added(each.item.prompt_id, worth.get(each.decision, 0.0)) for each in judged]


def count(judged: Sequence[JudgedItem], decision: Decision) -> int:
    """How many items were decided so."""
    return sum(each.decision is decision for each in judged)


def check_kinds(judged: Sequence[JudgedItem], allowed: Sequence[ItemKind], *, what: str, why: str) -> None:
    """
    Raises:
        DataError: an outcome is of another kind; the message says why it cannot be counted.
    """
    for each in judged:
        if each.outcome.kind not in allowed:
            raise DataError(
                f"{what} cannot be counted from `{each.outcome.kind}` (row {each.item.row}, '{each.item.id}'): {why} "
                f"Give {' or '.join(f'`{kind}`' for kind in allowed)}."
            )
