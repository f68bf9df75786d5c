"""Multimodal RewardBench and Multimodal RewardBench 2 against hand arithmetic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from basereward.data.images.image_store import ImageStore
from basereward.errors import DataError
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.outcome import judged_by
from basereward.evaluation.protocols.multimodal_rewardbench import COLUMNS, MultimodalRewardBench
from basereward.evaluation.protocols.multimodal_rewardbench_2 import MultimodalRewardBench2
from basereward.evaluation.scoring import Bundle
from tests.fixtures.published.benchmarks import benchmark_rows as rows

# Rows of the release by column, 4,711 in all, and how many of them a made-up model has right.
SIZES = dict(zip(COLUMNS, (623, 654, 630, 514, 584, 508, 1198), strict=True))
RIGHT = dict(zip(COLUMNS, (400, 401, 402, 403, 304, 505, 906), strict=True))


def items(found: Sequence[rows.Row]) -> list[Item]:
    """Rows as items of Multimodal RewardBench."""
    protocol = MultimodalRewardBench()
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(found)]


def items_2(found: Sequence[rows.Row]) -> list[Item]:
    """Rows as items of Multimodal RewardBench 2."""
    protocol = MultimodalRewardBench2()
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(found)]


def test_multimodal_rewardbench_has_two_meanings_of_overall() -> None:
    """3,321 of 4,711 pairs are right, 70.49 %; the mean of the seven columns is the plain mean of seven shares."""
    found = [
        (rows.multimodal_rewardbench(f"{name}-{i}", category), i < right)
        for (name, category), size, right in zip(
            rows.MULTIMODAL_CATEGORIES, SIZES.values(), RIGHT.values(), strict=True
        )
        for i in range(size)
    ]
    told = items([row for row, _ in found])
    judged = [JudgedItem(item, Outcome(correct=good)) for item, (_, good) in zip(told, found, strict=True)]
    variants = MultimodalRewardBench().variants
    micro, mean = variants["micro"](judged), variants["seven_column_mean"](judged)
    assert (micro["overall"].numerator, micro["overall"].denominator) == (3321, 4711)
    assert mean["overall"].value == pytest.approx(np.mean([RIGHT[name] / SIZES[name] for name in COLUMNS]))
    for measures in (micro, mean):
        assert list(measures)[:8] == ["overall", *COLUMNS]
        assert {name: (measures[name].numerator, measures[name].denominator) for name in COLUMNS} == {
            name: (RIGHT[name], SIZES[name]) for name in COLUMNS
        }
    assert (micro["bias"].denominator, micro["toxicity"].denominator) == (508, 0)


def test_multimodal_rewardbench_splits_by_id_whatever_its_capitals() -> None:
    """Ids that begin with pairs are bias, others of safety toxicity; with math are math, else coding."""
    names = [("Pairs_1", "safety"), ("hateful-1", "safety"), ("mathvista", "reasoning"), ("image2struct", "reasoning")]
    labels = [item.labels for item in items([rows.multimodal_rewardbench(*name) for name in names])]
    assert labels == [
        {"category": "safety", "safety": "bias"},
        {"category": "safety", "safety": "toxicity"},
        {"category": "math"},
        {"category": "coding"},
    ]


def test_multimodal_rewardbench_unread_verdict_is_a_coin_of_seed_123() -> None:
    """Every verdict that is missing takes the next toss: below 0.5 the first answer. They are counted as undecided."""
    found = [rows.multimodal_rewardbench(f"s{i}", "vqa", better=f"Output{i % 2 + 1}") for i in range(40)]
    judged = [JudgedItem(item, Outcome(votes=(None if item.row % 3 else item.right[0],))) for item in items(found)]
    random.seed(123)
    expected = sum(("AB"[i % 2] == ("A" if random.random() < 0.5 else "B")) if i % 3 else 1 for i in range(40))
    measure = MultimodalRewardBench().variants["micro"](judged)["vqa"]
    assert (measure.numerator, measure.denominator, measure.undecided) == (expected, 40, 26)
    assert 14 < expected < 40


def test_multimodal_rewardbench_takes_other_names_of_categories() -> None:
    """A copy may name them otherwise; a mapping in the benchmark's file says so."""
    protocol = MultimodalRewardBench(categories={"VQA (perception)": "vqa"})
    row = rows.multimodal_rewardbench("1", "VQA (perception)")
    assert protocol.item(row, number=0, images=ImageStore()).labels == {"category": "vqa"}


def test_multimodal_rewardbench_2_pools_decisions_of_both_orders() -> None:
    """Right is answer 0. Votes (0, 0), (0, none), (1, 0), (none, none): 4 of 5 decisions are right, 3 are missing."""
    found = items_2([rows.multimodal_rewardbench_2(str(i), drawn=i == 0) for i in range(4)])
    votes: list[tuple[int | None, ...]] = [(0, 0), (0, None), (1, 0), (None, None)]
    judged = [JudgedItem(item, Outcome(votes=vote)) for item, vote in zip(found, votes, strict=True)]
    measures = MultimodalRewardBench2().variants["both_orders"](judged)
    assert (measures["overall"].numerator, measures["overall"].denominator) == (4, 5)
    assert measures["overall"].undecided == 3
    assert (measures["text_only"].numerator, measures["text_only"].denominator) == (2, 3)


def test_multimodal_rewardbench_2_counts_scores_twice() -> None:
    """Right is answer 0: 2 of 3 pairs are right, one is a tie: 4 of 6 decisions."""
    found = items_2([rows.multimodal_rewardbench_2(str(i)) for i in range(3)])
    scores = [(1.0, 0.0), (0.5, 0.0), (1.0, 1.0)]
    judged = [JudgedItem(item, Outcome(scores=each)) for item, each in zip(found, scores, strict=True)]
    measure = MultimodalRewardBench2().variants["both_orders"](judged)["overall"]
    assert (measure.numerator, measure.denominator, measure.ties) == (4, 6, 1)


@pytest.mark.parametrize(("order", "fails"), [("both", False), ("fixed", True)])
def test_multimodal_rewardbench_2_needs_both_orders(order: Literal["both", "fixed"], fails: bool) -> None:
    """A judge that takes the first one shown gets exactly half under both orders; a single vote is refused."""
    found = items_2([rows.multimodal_rewardbench_2(str(i), chosen="AAAB"[i]) for i in range(4)])
    outcomes = judged_by(lambda item, shown: 0, found, order=order)
    judged = [JudgedItem(*each) for each in zip(found, outcomes, strict=True)]
    variant = MultimodalRewardBench2().variants["both_orders"]
    if fails:
        with pytest.raises(DataError, match=r"row 0 \('0'\) has 1 verdicts.*--order both"):
            variant(judged)
    else:
        assert (variant(judged)["overall"].numerator, variant(judged)["overall"].denominator) == (4, 8)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<image_0> and <image_1>: which?", [None, " and ", None, ": which?"]),
        ("Which?", ["Which?\n", None, "\n", None]),
    ],
    ids=["numbered", "without_places"],
)
def test_multimodal_rewardbench_2_pictures_stand_where_the_prompt_names_them(
    text: str, parts: list[str | None]
) -> None:
    """The numbered places become ours, so that scoring finds one for each picture; without any, pictures come last."""
    item = items_2([rows.multimodal_rewardbench_2("1") | {"prompt_text": text}])[0]
    bundle = Bundle(item)
    bundle.add(item)
    group = bundle.group(ImageStore())
    assert [None if part.is_image else part.text for part in group.prompt[0].parts] == parts
    assert len(group.images) == 2
