"""Shares of comparisons, votes and fractions of items, and weighted sums of such shares.

Intervals are over prompts, because the contributions of one prompt are not independent.
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

# Sums of fractions such as 1/3 miss a whole number by a few units in the last place.
RELATIVE_TOLERANCE = 1e-12


class Added(NamedTuple):
    """The contribution of one item to a share: `got` to the numerator, `of` to the denominator.

    >>> Added("a", got=1.0).of
    1.0
    """

    prompt_id: str
    got: float
    of: float = 1.0


class CountedPart(NamedTuple):
    """A share with its weight in a sum.

    >>> CountedPart(2.0, [Added("a", 1.0)]).weight
    2.0
    """

    weight: float
    added: Sequence[Added]


def share(added: Sequence[Added], *, ties: int = 0, undecided: int = 0) -> Measure:
    """The sum of the numerators over that of the denominators; NaN if there is nothing.

    Args:
        added: the contributions.
        ties: their number, for the record.
        undecided: the number of undecided items or votes, for the record.

    >>> share([Added("a", 2, 3), Added("b", 1, 1)]).value
    0.75
    """
    got = sum(contribution.got for contribution in added)
    of = sum(contribution.of for contribution in added)
    return Measure(
        int(got) if got == int(got) else got,
        int(of) if of == int(of) else of,
        "bootstrap",
        lambda: _bounds([CountedPart(1.0, added)], of=1.0),
        ties=ties,
        undecided=undecided,
    )


def weighted(parts: Iterable[CountedPart], *, of: float | None = None, ties: int = 0, undecided: int = 0) -> Measure:
    """The weighted sum of shares, divided by `of`.

    It is NaN if a part has no contributions: a mean over fewer categories than its name says would be another number.

    Args:
        parts: the shares with their weights.
        of: the sum of the weights by default.
        ties: their number, for the record.
        undecided: the number of undecided items or votes, for the record.

    >>> weighted([CountedPart(1, [Added("a", 1)]), CountedPart(3, [Added("b", 0), Added("c", 1)])]).value
    0.625
    """
    parts = list(parts)
    total = sum(part.weight for part in parts) if of is None else of
    got = 0.0
    for part in parts:
        denominator = sum(contribution.of for contribution in part.added)
        if not denominator:
            return Measure(0, 0, ties=ties, undecided=undecided)
        got += part.weight * sum(contribution.got for contribution in part.added) / denominator
    if not parts:
        return Measure(0, 0, ties=ties, undecided=undecided)
    # Otherwise a share of all right items could be above 1.
    if math.isclose(got, total, rel_tol=RELATIVE_TOLERANCE):
        got = total
    return Measure(got, total, "bootstrap", lambda: _bounds(parts, of=total), ties=ties, undecided=undecided)


def right(judged: Sequence[JudgedItem], *, undecided: float = 0.0) -> list[Added]:
    """Count each item as 1 if it is right, as `undecided` if its votes have no majority, and otherwise as 0.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> [added.got for added in right([JudgedItem(item, Outcome(votes=(0, 1)))], undecided=0.5)]
    [0.5]
    """
    credit = {Decision.RIGHT: 1.0, Decision.UNDECIDED: undecided}
    return [Added(judged_item.item.prompt_id, credit.get(judged_item.decision, 0.0)) for judged_item in judged]


def count(judged: Sequence[JudgedItem], decision: Decision) -> int:
    """The number of items with a decision.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> count([JudgedItem(item, Outcome(scores=(1.0, 1.0)))], Decision.TIE)
    1
    """
    return sum(judged_item.decision is decision for judged_item in judged)


def check_kinds(judged: Sequence[JudgedItem], allowed: Sequence[ItemKind], *, what: str, why: str) -> None:
    """Check that all outcomes are of an allowed kind.

    Args:
        judged: items with outcomes.
        allowed: the kinds.
        what: is counted, for the message.
        why: other kinds cannot be counted, as a sentence for the message.

    Raises:
        DataError: an outcome is of another kind.
    """
    for judged_item in judged:
        kind, item = judged_item.outcome.kind, judged_item.item
        if kind not in allowed:
            names = " or ".join(f"`{name}`" for name in allowed)
            raise DataError(
                f"{what} cannot be counted from `{kind}` (row {item.row}, '{item.id}'): {why} Give {names}."
            )


def _bounds(parts: Sequence[CountedPart], *, of: float) -> Interval:
    places: dict[str, int] = {}
    for part in parts:
        for contribution in part.added:
            places.setdefault(contribution.prompt_id, len(places))
    # Of shape (prompts, parts, 2): numerators and denominators.
    sums = np.zeros((len(places), len(parts), 2))
    for column, part in enumerate(parts):
        rows = [places[contribution.prompt_id] for contribution in part.added]
        # `np.add.at`, because `sums[rows] += values` would count a repeated prompt once.
        np.add.at(sums[:, column], rows, np.array([(entry.got, entry.of) for entry in part.added]))
    weights = np.array([part.weight for part in parts])
    # `resampled` gives the interval of the weighted mean; the sum over `of` is this many times that.
    scale = float(weights.sum()) / of
    low, high = resampled(sums, weights)
    return _snap_to_one(low * scale), _snap_to_one(high * scale)


def _snap_to_one(bound: float) -> float:
    return 1.0 if math.isclose(bound, 1.0, rel_tol=RELATIVE_TOLERANCE) else bound
