"""JudgeBench (arXiv 2410.12784): hard text pairs of which one answer is objectively right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy

LABELS = ("A>B", "B>A")
CATEGORIES = {  # what the source of a row begins with -> its category
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}


class JudgeBench:
    """Rows of `question`, `response_A`, `response_B`, which is better (`label`), and a `source`.

    `both_orders`, for judges: a vote is +1 when right, -1 when wrong, 0 when it chose none, and a pair is right iff its
    votes sum to more than 0. `one_order`, for reward models and single votes. All pairs are counted in both; ties and
    votes for none lose. A model that gives scores says the same in both orders. `both_orders` has no measures for an
    odd number of votes, `one_order` for more than one.
    """

    columns = ("pair_id", "question", "response_A", "response_B", "label", "source")
    also: ClassVar[Mapping[str, str]] = {"original_id": "which pairs of one question share"}

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {"both_orders": _both_orders, "one_order": _one_order}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """
        Raises:
            RowRejected: an answer is no text, or the label or the source is unknown.
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
        "unknown_category", f"`source` begins with none that is known: {unknown('source', source, CATEGORIES)}"
    )


def _both_orders(judged: Sequence[JudgedItem]) -> Measures:
    if any(len(each.outcome.votes or ()) % 2 for each in judged):
        return {}
    return _measures(judged)


def _one_order(judged: Sequence[JudgedItem]) -> Measures:
    if any(len(each.outcome.votes or ()) > 1 for each in judged):
        return {}
    return _measures(judged)


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    measures = {"overall": _accuracy(judged)}
    for name in CATEGORIES.values():
        measures[name] = _accuracy([each for each in judged if each.item.labels["category"] == name])
    return measures


def _accuracy(judged: Sequence[JudgedItem]) -> Measure:
    sums = [(each, _sum(each)) for each in judged]
    decided = [each if total is None else JudgedItem(each.item, Outcome(correct=total > 0)) for each, total in sums]
    return replace(accuracy(decided), undecided=sum(total == 0 for _, total in sums))


def _sum(each: JudgedItem) -> int | None:
    if each.outcome.votes is None:
        return None
    return sum((vote in each.item.right) - (vote in each.item.wrong) for vote in each.outcome.votes)
