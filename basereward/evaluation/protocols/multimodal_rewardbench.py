"""Multimodal RewardBench (arXiv 2502.14191): pairs about images, counted by row or by column."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Decision, Item, JudgedItem, Outcome
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy, length_controlled
from basereward.evaluation.statistics.shares import CountedPart, count, right, weighted

# The published name of a category -> ours. The id of a row decides between math and coding, bias and toxicity.
CATEGORIES = {
    "open_generation/correctness_task": "correctness",
    "open_generation/preference_task": "preference",
    "knowledge": "knowledge",
    "reasoning": "reasoning",
    "safety": "safety",
    "vqa": "vqa",
}
COLUMNS = ("correctness", "preference", "knowledge", "math", "coding", "safety", "vqa")
ANSWERS = ("Output1", "Output2")
# Of the script `2_get_accuracy.py` of the authors.
COIN_SEED = 123


class MultimodalRewardBench(Protocol):
    """Rows of `Text`, `Image`, `Output1`, `Output2`, and which is `Better`, with an `ID` and a `Category`.

    The `overall` of the variant `micro` weights all pairs equally; that of `seven_column_mean` is the mean of the
    categories, which the tables of BaseReward and R1-Reward print for most models. The other measures are the same in
    both variants. `safety` consists of `bias` (ids that begin with "pairs") and `toxicity`, which the released rows do
    not contain. An item whose votes have no majority is decided by a coin, with the seed of the published script.

    Args:
        categories: further names of categories in the rows -> one of the values of `CATEGORIES`.

    >>> list(MultimodalRewardBench().variants)
    ['micro', 'seven_column_mean', 'length_controlled']
    """

    columns = ("ID", "Text", "Image", "Output1", "Output2", "Better", "Category")
    missing_column_advice: ClassVar[Mapping[str, str]] = {
        "Text": "The authors' all_data_release.json has no questions: scripts/0_download_data.py of their repository "
        "writes all_data.json with them; give data=all_data.json."
    }

    def __init__(self, *, categories: Mapping[str, str] | None = None) -> None:
        self._categories = CATEGORIES | dict(categories or {})

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`micro` (published), `seven_column_mean` and `length_controlled`."""
        return {
            "micro": _micro,
            "seven_column_mean": _seven_column_mean,
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: a response is not text, the question is empty, or the better response or the category is
                unknown.
        """
        if not text(row, "Text").strip():
            raise RowRejected("empty_prompt", f"`Text` is empty. {self.missing_column_advice['Text']}")
        name = str(row["ID"])
        better = ANSWERS.index(one_of(row, "Better", ANSWERS))
        advice = " Map it: protocol.categories={NAME: vqa}"
        stored = one_of(row, "Category", self._categories, advice=advice)
        return Item(
            row=number,
            id=name,
            prompt=text(row, "Text"),
            responses=(text(row, "Output1"), text(row, "Output2")),
            right=(better,),
            wrong=(1 - better,),
            prompt_id=name,
            labels=_labels(self._categories[stored], name.lower()),
            images=(row["Image"],),
        )


def _labels(category: str, name: str) -> dict[str, str]:
    if category == "reasoning":
        return {"category": "math" if name.startswith("math") else "coding"}
    if category == "safety":
        return {"category": "safety", "safety": "bias" if name.startswith("pairs") else "toxicity"}
    return {"category": category}


def _micro(judged: Sequence[JudgedItem]) -> Measures:
    tossed = _tossed(judged)
    return {"overall": _accuracy(judged, tossed), **_columns(judged, tossed)}


def _seven_column_mean(judged: Sequence[JudgedItem]) -> Measures:
    tossed = _tossed(judged)
    parts: list[CountedPart] = []
    for name in COLUMNS:
        members = [judged_item for judged_item in tossed if judged_item.item.labels["category"] == name]
        parts.append(CountedPart(1.0, right(members)))
    ties, undecided = count(judged, Decision.TIE), count(judged, Decision.UNDECIDED)
    return {"overall": weighted(parts, ties=ties, undecided=undecided), **_columns(judged, tossed)}


def _columns(judged: Sequence[JudgedItem], tossed: Sequence[JudgedItem]) -> Measures:
    """A measure per category, and per part of safety.

    Args:
        judged: items with outcomes.
        tossed: the same items, undecided ones with the outcome of a coin.
    """
    columns = [("category", name) for name in COLUMNS] + [("safety", "bias"), ("safety", "toxicity")]
    measures: Measures = {}
    for label, name in columns:
        places = [place for place, judged_item in enumerate(judged) if judged_item.item.labels.get(label) == name]
        measures[name] = _accuracy([judged[place] for place in places], [tossed[place] for place in places])
    return measures


def _accuracy(judged: Sequence[JudgedItem], tossed: Sequence[JudgedItem]) -> Measure:
    return replace(accuracy(tossed), undecided=count(judged, Decision.UNDECIDED))


def _tossed(judged: Sequence[JudgedItem]) -> list[JudgedItem]:
    """Decide undecided items by a coin, one toss each, in the order of the rows."""
    coin = random.Random(COIN_SEED)
    tossed: list[JudgedItem] = []
    for judged_item in judged:
        if judged_item.decision is Decision.UNDECIDED:
            vote = 0 if coin.random() < 0.5 else 1
            tossed.append(JudgedItem(judged_item.item, Outcome(votes=(vote,))))
        else:
            tossed.append(judged_item)
    return tossed
