"""Multimodal RewardBench (arXiv 2502.14191): pairs about pictures, counted by row or by column."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Decision, Item, JudgedItem, Outcome
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy, length_controlled
from basereward.evaluation.statistics.shares import CountedPart, count, right, weighted

# The published name of a category -> ours. Two are split by what the row's id begins with.
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
COIN_SEED = 123


class MultimodalRewardBench:
    """Rows of `Text`, `Image`, `Output1`, `Output2`, and which is `Better`, with an `ID` and a `Category`.

    `micro` counts all pairs alike; `seven_column_mean` is the mean of the categories, as tables of BaseReward and
    R1-Reward print it for most models. The other measures are the same in both. `safety` is `bias` (ids that begin with
    "pairs") and `toxicity`, which is not in the released rows. An item that votes leave undecided gets a coin, with the
    seed of the published script.

    Args:
        categories: further names of categories in the rows -> one of `CATEGORIES`' values.
    """

    columns = ("ID", "Text", "Image", "Output1", "Output2", "Better", "Category")
    missing: ClassVar[Mapping[str, str]] = {
        "Text": "The authors' all_data_release.json has no questions: scripts/0_download_data.py of their repository "
        "writes all_data.json with them; give data=all_data.json."
    }

    def __init__(self, *, categories: Mapping[str, str] | None = None) -> None:
        self._categories = CATEGORIES | dict(categories or {})

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {
            "micro": _micro,
            "seven_column_mean": _seven_column_mean,
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """
        Raises:
            RowRejected: an answer is no text, the question is empty, or the better answer or the category is unknown.
        """
        if not text(row, "Text").strip():
            raise RowRejected("empty_prompt", f"`Text` is empty. {self.missing['Text']}")
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
    parts = [CountedPart(1.0, right([e for e in tossed if e.item.labels["category"] == name])) for name in COLUMNS]
    ties, undecided = count(judged, Decision.TIE), count(judged, Decision.UNDECIDED)
    return {"overall": weighted(parts, ties=ties, undecided=undecided), **_columns(judged, tossed)}


def _columns(judged: Sequence[JudgedItem], tossed: Sequence[JudgedItem]) -> Measures:
    pairs = list(zip(judged, tossed, strict=True))
    measures = {}
    for label, names in (("category", COLUMNS), ("safety", ("bias", "toxicity"))):
        for name in names:
            part = [(was, now) for was, now in pairs if was.item.labels.get(label) == name]
            measures[name] = _accuracy([was for was, _ in part], [now for _, now in part])
    return measures


def _accuracy(judged: Sequence[JudgedItem], tossed: Sequence[JudgedItem]) -> Measure:
    return replace(accuracy(tossed), undecided=count(judged, Decision.UNDECIDED))


def _tossed(judged: Sequence[JudgedItem]) -> list[JudgedItem]:
    """Undecided items with a verdict by coin: one toss each, in the order of the rows."""
    coin = random.Random(COIN_SEED)
    return [
        JudgedItem(each.item, Outcome(votes=(0 if coin.random() < 0.5 else 1,)))
        if each.decision is Decision.UNDECIDED
        else each
        for each in judged
    ]
