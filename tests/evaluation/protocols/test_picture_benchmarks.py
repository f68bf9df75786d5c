"""Test the measures of Multimodal RewardBench and Multimodal RewardBench 2 against hand arithmetic."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.errors import DataError
from basereward.evaluation.item_identity import item_fingerprint
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.outcome import judged_by
from basereward.evaluation.protocols.multimodal_rewardbench import COLUMNS, MultimodalRewardBench
from basereward.evaluation.protocols.multimodal_rewardbench_2 import MultimodalRewardBench2
from basereward.evaluation.protocols.omnirewardbench import OmniRewardBench
from basereward.evaluation.scoring import Bundle, score_items
from basereward.inference.group_scores import ScoresGroups
from tests.fixtures.published.benchmarks import benchmark_rows as rows

# Rows of the release by column, 4,711 in total, and the number of rows that an invented model has right.
SIZES = dict(zip(COLUMNS, (623, 654, 630, 514, 584, 508, 1198), strict=True))
RIGHT = dict(zip(COLUMNS, (400, 401, 402, 403, 304, 505, 906), strict=True))


def items(dataset_rows: Sequence[rows.Row]) -> list[Item]:
    """Convert rows to items of Multimodal RewardBench."""
    protocol = MultimodalRewardBench()
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(dataset_rows)]


def items_2(dataset_rows: Sequence[rows.Row]) -> list[Item]:
    """Convert rows to items of Multimodal RewardBench 2."""
    protocol = MultimodalRewardBench2()
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(dataset_rows)]


class SizeScorer(ScoresGroups):
    """Scores a response by the bytes of its images."""

    def score_batches(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[Any]]:
        """Add up sizes."""
        for group in groups:
            images = [group.images_of(index) for index in range(len(group.responses))]
            yield [[float(sum(len(item.image) for item in own)) for own in images]]


def test_pictures_of_answers_reach_the_model(tmp_path: Path) -> None:
    """Answers that are only pictures, of rows with equal prompts, texts with pictures in numbered places and after the
    text, and OmniRewardBench's pictures: every answer is scored with its own, and each distinct one once."""
    drawn = rows.multimodal_rewardbench_2("0", drawn=True) | {"prompt_text": "Draw <image>.", "prompt_images": []}
    answers: list[tuple[str, list[bytes], str, list[bytes]]] = [
        ("", [b"1"], "", [b"22"]),
        ("", [b"22"], "", [b"4444"]),
        ("First <image_0>, then <image_1>.", [b"1", b"22"], "None, no <image>.", []),
        ("All:", [b"1", b"1"], "<image_1>", [b"333"]),
    ]
    table = []
    for number, (a, images_a, b, images_b) in enumerate(answers):
        row = drawn | {"pair_id": str(number), "response_a_text": a, "response_a_images": images_a}
        table.append(row | {"response_b_text": b, "response_b_images": images_b})
    benchmark_items = items_2(table)
    bundle = Bundle(benchmark_items[0])
    for item in benchmark_items:
        bundle.add(item)
    group = bundle.group(ImageStore())
    assert group.responses == ("", "", "", "First , then .", "None, no <image>.", "All:\n\n", "")
    assert [part.text for part in group.prompt[0].parts] == ["Draw <image>."]
    assert [[item.offset for item in own] for own in group.response_images] == [[0], [0], [0], [6, 13], [], [5, 6], [0]]
    outcomes = score_items(SizeScorer(), benchmark_items, images=ImageStore(), journal=tmp_path / "a", header={})
    assert [outcomes[row].scores for row in range(4)] == [(1.0, 2.0), (2.0, 4.0), (3.0, 0.0), (2.0, 3.0)]
    omni = rows.omnirewardbench("response2", task="text_to_image") | {"response1": {"bytes": b"1", "path": None}}
    item = OmniRewardBench().item(omni | {"response2": {"bytes": b"22", "path": "a"}}, number=0, images=ImageStore())
    outcomes = score_items(SizeScorer(), [item], images=ImageStore(), journal=tmp_path / "b", header={})
    assert outcomes[0].scores == (1.0, 2.0)
    assert item_fingerprint(benchmark_items[0]) != item_fingerprint(replace(benchmark_items[0], response_images=()))


def test_multimodal_rewardbench_has_two_meanings_of_overall() -> None:
    """3,321 of 4,711 pairs are right, 70.49 %. The mean of the seven columns is the unweighted mean of the seven
    shares."""
    rows_and_outcomes = [
        (rows.multimodal_rewardbench(f"{name}-{i}", category), i < right)
        for (name, category), size, right in zip(
            rows.MULTIMODAL_CATEGORIES, SIZES.values(), RIGHT.values(), strict=True
        )
        for i in range(size)
    ]
    benchmark_items = items([row for row, _ in rows_and_outcomes])
    judged = [
        JudgedItem(item, Outcome(correct=is_right))
        for item, (_, is_right) in zip(benchmark_items, rows_and_outcomes, strict=True)
    ]
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


def test_multimodal_rewardbench_splits_categories_by_id() -> None:
    """In safety, ids that begin with pairs are bias and others toxicity; in reasoning, ids with math are math and
    others coding. Upper and lower case count as equal."""
    names = [("Pairs_1", "safety"), ("hateful-1", "safety"), ("mathvista", "reasoning"), ("image2struct", "reasoning")]
    labels = [item.labels for item in items([rows.multimodal_rewardbench(*name) for name in names])]
    assert labels == [
        {"category": "safety", "safety": "bias"},
        {"category": "safety", "safety": "toxicity"},
        {"category": "math"},
        {"category": "coding"},
    ]


def test_multimodal_rewardbench_replaces_unread_verdicts_by_seeded_draws() -> None:
    """Every missing verdict takes the next draw of seed 123, below 0.5 the first answer, and counts as undecided."""
    dataset_rows = [rows.multimodal_rewardbench(f"s{i}", "vqa", better=f"Output{i % 2 + 1}") for i in range(40)]
    judged = [
        JudgedItem(item, Outcome(votes=(None if item.row % 3 else item.right[0],))) for item in items(dataset_rows)
    ]
    random.seed(123)
    expected = sum(("AB"[i % 2] == ("A" if random.random() < 0.5 else "B")) if i % 3 else 1 for i in range(40))
    measure = MultimodalRewardBench().variants["micro"](judged)["vqa"]
    assert (measure.numerator, measure.denominator, measure.undecided) == (expected, 40, 26)
    assert 14 < expected < 40


def test_multimodal_rewardbench_maps_other_category_names() -> None:
    """The argument `categories` maps the names of a copy to those of the release."""
    protocol = MultimodalRewardBench(categories={"VQA (perception)": "vqa"})
    row = rows.multimodal_rewardbench("1", "VQA (perception)")
    assert protocol.item(row, number=0, images=ImageStore()).labels == {"category": "vqa"}


def test_multimodal_rewardbench_2_pools_decisions_of_both_orders() -> None:
    """Answer 0 is right. Votes (0, 0), (0, none), (1, 0), (none, none): 4 of 5 decisions are right, and 3 are
    missing."""
    benchmark_items = items_2([rows.multimodal_rewardbench_2(str(i), drawn=i == 0) for i in range(4)])
    votes: list[tuple[int | None, ...]] = [(0, 0), (0, None), (1, 0), (None, None)]
    judged = [JudgedItem(item, Outcome(votes=vote)) for item, vote in zip(benchmark_items, votes, strict=True)]
    measures = MultimodalRewardBench2().variants["both_orders"](judged)
    assert (measures["overall"].numerator, measures["overall"].denominator) == (4, 5)
    assert measures["overall"].undecided == 3
    assert (measures["text_only"].numerator, measures["text_only"].denominator) == (2, 3)


def test_multimodal_rewardbench_2_counts_scores_twice() -> None:
    """Answer 0 is right: 2 of 3 pairs are right and one is a tie, so 4 of 6 decisions are right."""
    benchmark_items = items_2([rows.multimodal_rewardbench_2(str(i)) for i in range(3)])
    scores = [(1.0, 0.0), (0.5, 0.0), (1.0, 1.0)]
    judged = [
        JudgedItem(item, Outcome(scores=item_scores)) for item, item_scores in zip(benchmark_items, scores, strict=True)
    ]
    measure = MultimodalRewardBench2().variants["both_orders"](judged)["overall"]
    assert (measure.numerator, measure.denominator, measure.ties) == (4, 6, 1)


@pytest.mark.parametrize(("order", "fails"), [("both", False), ("fixed", True)])
def test_multimodal_rewardbench_2_needs_both_orders(order: Literal["both", "fixed"], fails: bool) -> None:
    """A judge that takes the first shown answer has exactly half of the decisions right under both orders; a single
    vote is refused."""
    benchmark_items = items_2([rows.multimodal_rewardbench_2(str(i), chosen="AAAB"[i]) for i in range(4)])
    outcomes = judged_by(lambda item, shown: 0, benchmark_items, order=order)
    judged = [JudgedItem(*pair) for pair in zip(benchmark_items, outcomes, strict=True)]
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
def test_multimodal_rewardbench_2_replaces_placeholders_by_pictures(text: str, parts: list[str | None]) -> None:
    """Numbered placeholders become image parts, one for each picture; without placeholders the pictures come last."""
    item = items_2([rows.multimodal_rewardbench_2("1") | {"prompt_text": text}])[0]
    bundle = Bundle(item)
    bundle.add(item)
    group = bundle.group(ImageStore())
    assert [None if part.is_visual else part.text for part in group.prompt[0].parts] == parts
    assert len(group.images) == 2
