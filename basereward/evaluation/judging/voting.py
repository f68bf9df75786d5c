"""Measures of several votes of a judge: the accuracy of majorities, and the consistency between both orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import binom

from basereward.evaluation.items import JudgedItem
from basereward.evaluation.statistics.measures import Measure, Measures, Variant
from basereward.evaluation.statistics.votes import accuracy_over_votes
from basereward.metrics.interval import wilson
from basereward.model.generation.round_robin import Order

OVER_VOTES, ORDERS = "over_votes", "orders"
"""Names of the variants."""
ONE, CONSISTENT, INDEPENDENT = "votes_1", "consistent", "independent"


def expected_majority(accuracy: float, votes: int) -> float:
    """How often the majority of an odd number of independent votes is right.

    Args:
        accuracy: of one vote, 0 to 1.
        votes: their number.

    >>> round(expected_majority(0.7, 3), 3)  # 0.7^3 + 3 * 0.7^2 * 0.3
    0.784
    """
    return float(binom.sf(votes // 2, votes, accuracy))


def vote_variants(order: Order, votes: int) -> dict[str, Variant]:
    """Ways of counting what a judge says of pairs, beside those of the benchmark.

    Args:
        order: in which the pairs were shown. In both: the variant `orders`; drawn for each vote: `over_votes`, see
            `accuracy_over_votes`.
        votes: for each pair and order.

    >>> list(vote_variants("random", 5)), list(vote_variants("both", 1)), list(vote_variants("random", 1))
    (['over_votes'], ['orders'], [])
    """
    if order == "both":
        return {ORDERS: _orders}
    return {OVER_VOTES: _over_votes} if votes > 1 else {}


def add_expected(variants: Mapping[str, dict[str, dict[str, Any]]]) -> None:
    """Add to each majority of the variant `over_votes`, as JSON, the share that independent votes would give.

    The judge is right about easy pairs in all of its votes, so its majority gains less than that of independent votes.

    >>> measures = {"votes_1": {"value": 0.7}, "votes_3": {"value": 0.72, "baselines": {}}}
    >>> add_expected({"over_votes": measures})
    >>> round(measures["votes_3"]["baselines"]["independent"], 3)
    0.784
    """
    measures = variants.get(OVER_VOTES, {})
    one = measures.get(ONE, {}).get("value")
    for name, measure in measures.items():
        # Not for `overall`, and not for the mean over categories, in which the votes have different accuracies.
        if one is not None and name != ONE and name.startswith("votes_"):
            measure["baselines"][INDEPENDENT] = expected_majority(one, int(name.rpartition("_")[2]))


def _over_votes(judged: Sequence[JudgedItem]) -> Measures:
    """The accuracy over votes of the items that have some: those with more than two responses have scores."""
    return accuracy_over_votes([judged_item for judged_item in judged if judged_item.outcome.votes is not None])


def _orders(judged: Sequence[JudgedItem]) -> Measures:
    """Whether the judge chooses the same response in both orders, and how often it is right where the right one is
    shown first, or second. Verdicts that are not readable are left out and counted."""
    same: list[bool | None] = []
    first: list[bool | None] = []
    second: list[bool | None] = []
    for judged_item, given, swapped in _in_both_orders(judged):
        right = judged_item.item.right
        same.append(None if given is None or swapped is None else given == swapped)
        # `given` is on the responses in their stored order.
        shown_first, shown_second = (given, swapped) if 0 in right else (swapped, given)
        first.append(None if shown_first is None else shown_first in right)
        second.append(None if shown_second is None else shown_second in right)
    return {CONSISTENT: _share(same), "right one first": _share(first), "right one second": _share(second)}


def _in_both_orders(judged: Sequence[JudgedItem]) -> Iterator[tuple[JudgedItem, int | None, int | None]]:
    """Each item with its verdicts in the stored and in the other order, once for each vote."""
    for judged_item in judged:
        votes = judged_item.outcome.votes or ()
        # A pair is asked in both orders, and then once more for the next vote.
        for given, swapped in zip(votes[::2], votes[1::2], strict=True):
            yield judged_item, given, swapped


def _share(values: Sequence[bool | None]) -> Measure:
    """The share of true values; None is left out and counted."""
    undecided = values.count(None)
    count, total = values.count(True), len(values) - undecided
    return Measure(count, total, "wilson", lambda: wilson(count, total), undecided=undecided)
