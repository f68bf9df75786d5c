"""Reasonings and ratings: columns of rows, and those of the embedded sources."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.multimodal.llava_critic_pointwise import LLaVACriticPointwise
from basereward.data.schema.group import Group, Preference, Reasoning
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.digit_pairs import DigitPairs
from basereward.data.sources.digits import Digits
from basereward.data.sources.numbers import Numbers
from basereward.errors import DataError

PAIR = {"prompt": "Which?", "chosen": "7", "rejected": "3"}
GENERAL = {"prompt": "Which?", "responses": ["7", "3", "4"], "ranking": [0, 1, 1]}


def read(row: dict[str, Any]) -> Group:
    """Return the group of a row."""
    return RowFormat().group(row, source="mine", row_id="0", where="row")


def test_reasonings_and_ratings_are_read() -> None:
    """Reasonings refer to responses by index; a single text is about the first two responses."""
    assert read(GENERAL | {"reasonings": [[2, 0, "1 is wrong."]]}).reasonings == (Reasoning(2, 0, "1 is wrong."),)
    assert read(PAIR | {"reasoning": "2 is wrong."}).reasonings == (Reasoning(0, 1, "2 is wrong."),)
    assert read(GENERAL | {"ratings": [1, 0.25, 0]}).ratings == (1.0, 0.25, 0.0)
    assert read(PAIR | {"chosen_rating": 0.9, "rejected_rating": 0.1}).ratings == (0.9, 0.1)
    assert read(PAIR).reasonings == read(GENERAL).ratings == ()


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"reasonings": [[0, 3, "?"]]}, "bad_reasonings"),
        ({"reasonings": [[1, 1, "?"]]}, "bad_reasonings"),
        ({"reasonings": [[0, 1]]}, "bad_reasonings"),
        ({"reasonings": "1 is wrong."}, "bad_reasonings"),
        ({"reasoning": 3}, "bad_reasonings"),
        ({"ratings": [1, 0]}, "bad_ratings"),
        ({"ratings": [1, 0, float("nan")]}, "bad_ratings"),
        ({"ratings": [1, 0, 10**400]}, "bad_ratings"),
        ({"ratings": [0, 1, 0.5]}, "contradicting_ratings"),
        ({"ratings": [1, 0, None]}, "bad_ratings"),
        ({"ratings": [True, 0, 0]}, "bad_ratings"),
    ],
)
def test_malformed_annotation_rejects_the_row(annotations: dict[str, Any], reason: str) -> None:
    """Each malformed annotation rejects the row under its own reason."""
    with pytest.raises(RowRejected) as caught:
        read(GENERAL | annotations)
    assert caught.value.reason == reason


def test_ratings_of_any_scale_are_kept() -> None:
    """Ratings from 1 to 5, as in argilla's data sets, are kept, or scaled to 0 to 1 with `rating_range`."""
    rated = PAIR | {"chosen_rating": 5.0, "rejected_rating": 2}
    assert read(rated).ratings == (5.0, 2.0)
    ranged = RowFormat(rating_range=[1, 5]).group(rated, source="mine", row_id="0", where="row")
    assert ranged.ratings == (1.0, 0.25)
    with pytest.raises(RowRejected) as caught:
        RowFormat(rating_range=[0, 4]).group(rated, source="mine", row_id="0", where="row")
    assert caught.value.reason == "bad_ratings"
    assert "0 to 4" in caught.value.detail


@pytest.mark.parametrize("rating_range", [[1], [5, 1], [1, 1], [1, float("nan")], [1, 2, 3]])
def test_rating_range_needs_two_ends(rating_range: list[float]) -> None:
    """`rating_range` needs a lower and a higher number, in this order."""
    with pytest.raises(DataError, match="rating_range"):
        RowFormat(rating_range=rating_range)


def test_rating_column_can_be_ignored() -> None:
    """A column mapped to null neither rejects the row nor reaches the group."""
    form = RowFormat(columns={"chosen_rating": None, "rejected_rating": None})
    group = form.group(PAIR | {"chosen_rating": "good", "rejected_rating": 9}, source="mine", row_id="0", where="row")
    assert group.ratings == ()


@pytest.mark.parametrize(
    ("row", "lower", "higher"),
    [
        (PAIR | {"chosen_rating": 0.1, "rejected_rating": 0.8}, "0.1", "0.8"),
        (PAIR | {"ratings": [2, 7]}, "2", "7"),
        ({"prompt": "Which?", "responses": ["7", "3"], "preferences": [[1, 0]], "ratings": [0.9, 0.5]}, "0.5", "0.9"),
        ({"prompt": "Which?", "responses": ["7", "3"], "ranking": [0, 1], "ratings": [-1, 0]}, "-1", "0"),
    ],
    ids=["pair", "ratings of a pair", "preferences", "ranking"],
)
def test_contradicting_ratings_reject_the_row(row: dict[str, Any], lower: str, higher: str) -> None:
    """The message has both ratings. They are not compared in rows for scoring; equal ratings contradict nothing."""
    with pytest.raises(RowRejected) as caught:
        read(row)
    assert caught.value.reason == "contradicting_ratings"
    assert f"{lower} against {higher}" in caught.value.detail
    RowFormat(for_training=False).group(row, source="mine", row_id="0", where="row")
    assert read(PAIR | {"chosen_rating": 3, "rejected_rating": 3}).ratings == (3.0, 3.0)


def test_ratings_alone_rank_the_responses() -> None:
    """Higher ratings win, equal ratings tie, and the report says that ratings are the preferences."""
    form = RowFormat()
    row = {"prompt": "Which?", "responses": ["7", "3", "4"], "ratings": [1, 4, 4]}
    group = form.group(row, source="mine", row_id="0", where="row")
    assert group.preferences == (Preference(1, 0), Preference(2, 0), Preference(1, 2, tie=True))
    assert form.report.notes == {"responses are ranked by their ratings": None}


@pytest.mark.parametrize(
    "source",
    [
        Digits("digits", val_size=20, test_size=0),
        Numbers("numbers", size=20, val_size=20, test_size=0),
        DigitPairs("pairs", size=20, val_size=20, test_size=0),
    ],
    ids=["digits", "numbers", "digit_pairs"],
)
def test_annotations_of_the_embedded_sources_are_true(source: Any) -> None:
    """Every preference has reasonings in both orders, which call only the winner right; ratings are 1 and 0."""
    for group in source.groups("val"):
        winners = {preference.winner for preference in group.preferences}
        assert group.ratings == tuple(float(i in winners) for i in range(len(group.responses)))
        reasoned_pairs = {(r.first, r.second) for r in group.reasonings}
        pairs = {(p.winner, p.loser) for p in group.preferences}
        assert reasoned_pairs == pairs | {(loser, winner) for winner, loser in pairs}
        for reasoning in group.reasonings:
            right = 1 if reasoning.first in winners else 2
            assert f"{right} is right" in reasoning.text
            assert f"{3 - right} is wrong" in reasoning.text
        for index, critique in enumerate(group.critiques):
            assert critique.endswith("right." if index in winners else "wrong.")


def test_llava_critic_scores_become_ratings() -> None:
    """Pointwise scores with a scale become ratings; a score outside of the scale rejects the row."""
    prompt_template = "<image>\nQuestion: [Which?]\nThe LMM response: [{}]\nASSISTANT:\n"
    rows = [
        {
            "conversations": [
                {"from": "human", "value": prompt_template.format(answer)},
                {"from": "gpt", "value": f"Score: {score}"},
            ]
        }
        for answer, score in (("a", 20), ("b", 95))
    ]
    row = {"rows": [conversation | {"image": "1.jpg"} for conversation in rows], "id": "x", "image": "1.jpg"}
    assert LLaVACriticPointwise(scale=[0, 100])(row)["ratings"] == [0.2, 0.95]
    assert "ratings" not in LLaVACriticPointwise()(row)
    with pytest.raises(RowRejected) as caught:
        LLaVACriticPointwise(scale=[1, 10])(row)
    assert caught.value.reason == "off_scale"
    with pytest.raises(ValueError, match="lowest and the highest"):
        LLaVACriticPointwise(scale=[5, 5])
