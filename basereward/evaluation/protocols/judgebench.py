"""JudgeBench (arXiv 2410.12784): difficult text pairs, in which exactly one response is objectively right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy

LABELS = ("A>B", "B>A")
# The beginning of a row's source -> its category.
CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


class JudgeBench(Protocol):
    """Rows of `question`, `response_A`, `response_B`, which is better (`label`), and a `source`.

    The variant `both_orders` is for judges: a vote counts +1 if it is right, -1 if it is wrong and 0 if it chose none,
    and a pair is right if the sum of its votes is above 0. `one_order` is for reward models and single votes. Both
    count all pairs; ties and votes that chose none are not right. The scores of a model do not depend on an order, so
    that they have both variants. `both_orders` has no measures for an odd number of votes, `one_order` none for more
    than one vote.

    >>> list(JudgeBench().variants)
    ['both_orders', 'one_order']
    """

    columns = ("pair_id", "question", "response_A", "response_B", "label", "source")
    optional_columns: ClassVar[Mapping[str, str]] = {"original_id": "which pairs of one question share"}

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`both_orders` (published) and `one_order`."""
        return {"both_orders": _both_orders, "one_order": _one_order}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: a response is not text, or the label or the source is unknown.
        """
        right = LABELS.index(one_of(row, "label", LABELS))
        return Item(
            row=number,
            id=str(row["pair_id"]),
            prompt=text(row, "question"),
            responses=(text(row, "response_A"), text(row, "response_B")),
            right=(right,),
            wrong=(1 - right,),
            prompt_id=str(row.get("original_id") or row["pair_id"]),
            labels={"category": _category(text(row, "source")), "source": row["source"]},
        )


def _category(source: str) -> str:
    for beginning, name in CATEGORIES.items():
        if source.startswith(beginning):
            return name
    raise RowRejected(
        "unknown_category", f"the beginning of `source` is not a known one: {unknown('source', source, CATEGORIES)}"
    )


def _both_orders(judged: Sequence[JudgedItem]) -> Measures:
    # An odd number of votes cannot be half in one order and half in the other.
    if any(_votes(judged_item) % 2 for judged_item in judged):
        return {}
    return _measures(judged)


def _one_order(judged: Sequence[JudgedItem]) -> Measures:
    if any(_votes(judged_item) > 1 for judged_item in judged):
        return {}
    return _measures(judged)


def _votes(judged_item: JudgedItem) -> int:
    return len(judged_item.outcome.votes or ())


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    measures = {"overall": _accuracy(judged)}
    for name in CATEGORIES.values():
        members = [judged_item for judged_item in judged if judged_item.item.labels["category"] == name]
        measures[name] = _accuracy(members)
    return measures


def _accuracy(judged: Sequence[JudgedItem]) -> Measure:
    """Accuracy by the sums of votes; a sum of 0 is undecided and counts as wrong."""
    decided: list[JudgedItem] = []
    undecided = 0
    for judged_item in judged:
        balance = _vote_balance(judged_item)
        if balance is None:
            decided.append(judged_item)
        else:
            decided.append(JudgedItem(judged_item.item, Outcome(correct=balance > 0)))
            undecided += balance == 0
    return replace(accuracy(decided), undecided=undecided)


def _vote_balance(judged_item: JudgedItem) -> int | None:
    """Right votes minus wrong votes; None if the outcome has no votes."""
    item, votes = judged_item.item, judged_item.outcome.votes
    if votes is None:
        return None
    return sum((vote in item.right) - (vote in item.wrong) for vote in votes)
