"""Test the data of the viewer's rows: nothing is lost, and the shares are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import Group, Preference, RejectedRow, Split, rank_preferences
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.reports.viewer_rows import MAX_CHARACTERS, MAX_LISTED, collect, rank, spread
from tests.helpers.support import group, video_groups


class ListSource:
    """A source with given groups."""

    def __init__(self, parts: dict[Split, list[Group]], lost: Sequence[RejectedRow] = ()) -> None:
        self.name = "kept"
        self.parts = parts
        self.losses = list(lost)

    def groups(self, split: Split) -> Sequence[Group]:
        return self.parts.get(split, [])

    def rejected(self, split: Split) -> list[RejectedRow]:
        return [row for row in self.losses if row.split == split]


def pair(chosen: str, rejected: str, *, name: str = "p", **preference_fields: Any) -> Group:
    """Return a group of two responses; the first is preferred or tied."""
    return Group(
        id=name,
        source="kept",
        prompt=(),
        responses=(chosen, rejected),
        preferences=(Preference(0, 1, **preference_fields),),
    )


def test_row_has_its_turns_responses_and_preferences() -> None:
    """The row has three ranked responses to a prompt with two pictures at their positions."""
    sample = group(images=2, name="g")
    [row] = collect(ListSource({"train": [sample]}), ["train"], rows=9)["rows"]
    [turn] = row["turns"]
    assert turn["role"] == "user"
    assert turn["parts"] == [{"image": 0}, {"image": 1}, {"text": "Which digit?", "length": 12}]
    assert row["images"] == [0, 1]
    assert [response["text"] for response in row["responses"]] == list(sample.responses)
    assert [response["rank"] for response in row["responses"]] == [0, 1, 2]
    assert [(preference["winner"], preference["loser"]) for preference in row["pairs"]] == [(0, 1), (0, 2), (1, 2)]


def test_equal_pictures_are_stored_once() -> None:
    """Two rows with the same picture refer to one stored picture."""
    data = collect(ListSource({"train": [group(images=1), group(images=1)]}), ["train"], rows=9)
    assert [row["images"] for row in data["rows"]] == [[0], [0]]
    assert len(data["pictures"]) == 1
    assert data["facts"]["images"] == 2
    assert (data["pictures"][0]["width"], data["pictures"][0]["height"]) == (56, 84)


def test_ties_weights_and_margins_are_included() -> None:
    """A NaN margin becomes null, since JSON has no NaN."""
    preferences = (Preference(0, 1, weight=0.5, margin=2.0), Preference(1, 2, tie=True, margin=float("nan")))
    sample = Group(id="g", source="kept", prompt=(), responses=("a", "b", "c"), preferences=preferences)
    [row] = collect(ListSource({"train": [sample]}), ["train"], rows=9)["rows"]
    assert [(preference["weight"], preference["margin"], preference["tie"]) for preference in row["pairs"]] == [
        (0.5, 2.0, False),
        (1.0, None, True),
    ]
    assert [response["rank"] for response in row["responses"]] == [0, 1, 1]
    assert row["margin"] == 2.0


@pytest.mark.parametrize(
    ("ranking", "places"), [([0, 1], [0, 1]), ([5, 2, 9], [1, 0, 2]), ([1, 0, 1], [1, 0, 1]), ([3, 3], [0, 0])]
)
def test_rank_follows_the_ranking(ranking: list[int], places: list[int]) -> None:
    """The places do not depend on the values of the ranks."""
    assert rank(len(ranking), rank_preferences(ranking)) == places


def test_rank_accepts_a_preference_cycle() -> None:
    """A custom source may have a cycle, and it must not hang the page."""
    assert (
        sorted(place for place in rank(3, [Preference(0, 1), Preference(1, 2), Preference(2, 0)]) if place is not None)[
            0
        ]
        == 0
    )


def test_length_and_accuracy_shares() -> None:
    """One of four untied pairs has equal lengths; of the other three the longer response wins two (2/3). Scores equal
    to the lengths follow length in all three, are right in two, and tie in the fourth, which is not right: 2/4."""
    groups = [pair("long", "x"), pair("long", "y"), pair("z", "long"), pair("a", "b"), pair("longest", "c", tie=True)]
    facts = collect(
        ListSource({"train": groups}),
        ["train"],
        rows=9,
        score=lambda sample: [float(len(response)) for response in sample.responses],
    )["facts"]
    assert (facts["pairs"], facts["longer_wins"], facts["follows_length"], facts["accuracy"]) == (4, 2 / 3, 1.0, 0.5)


def test_worst_margin_is_from_the_model_scores() -> None:
    """Scores 3, 5 and 4 of three ranked responses give the margins -2, -1 and 1."""
    [row] = collect(ListSource({"train": [group()]}), ["train"], rows=9, score=lambda _: [3.0, 5.0, 4.0])["rows"]
    assert [preference["model"] for preference in row["pairs"]] == [-2.0, -1.0, 1.0]
    assert row["margin"] == -2.0
    assert [response["score"] for response in row["responses"]] == [3.0, 5.0, 4.0]


def test_row_that_cannot_be_scored_is_shown_without_scores() -> None:
    """The row has its reason; it is counted neither as lost nor as wrong."""

    def score(sample: Group) -> list[float]:
        if sample.id == "long":
            raise RowRejected("too_long", "600 tokens")
        return [1.0, 0.0]

    groups = [pair("a", "b", name="short"), pair("c", "d", name="long", margin=0.5)]
    data = collect(ListSource({"train": groups}), ["train"], rows=9, score=score)
    assert [row["unscored"] for row in data["rows"]] == [None, "too_long: 600 tokens"]
    assert [row["margin"] for row in data["rows"]] == [1.0, None]
    assert (data["facts"]["unscored"], data["facts"]["accuracy"], data["facts"]["lost"]) == (1, 1.0, {})


def test_nan_score_is_null_and_wrong() -> None:
    """A NaN score becomes null, and its pair counts as wrong."""
    data = collect(ListSource({"train": [pair("a", "b")]}), ["train"], rows=9, score=lambda _: [float("nan"), 0.0])
    assert data["rows"][0]["responses"][0]["score"] is None
    assert data["facts"]["accuracy"] == 0.0
    json.dumps(data, allow_nan=False)


def test_lost_rows_are_counted_and_listed(tmp_path: Path) -> None:
    """Rows that the source rejected, and rows whose picture does not open, are lost."""
    missing = Group(id="m", source="kept", prompt=(), responses=("a", "b"), images=(str(tmp_path / "no.png"),))
    lost = [
        RejectedRow("kept", "train", "e", "empty_response", "line 3"),
        RejectedRow("kept", "val", "f", "empty_response", "line 9"),
    ]
    data = collect(ListSource({"train": [missing, group()], "val": [group()]}, lost), ["train", "val", "test"], rows=9)
    facts = data["facts"]
    assert (facts["rows"], facts["groups"], facts["shown"]) == (5, 2, 2)
    assert facts["lost"] == {"empty_response": 2, "image_missing": 1}
    assert [(row["id"], row["split"]) for row in data["lost"]] == [("e", "train"), ("f", "val"), ("m", "train")]
    assert "no.png" in data["lost"][2]["detail"]
    assert data["splits"] == {"train": 3, "val": 2}


def test_list_of_lost_rows_is_limited() -> None:
    """All lost rows are counted, and the list has at most MAX_LISTED of them."""
    lost = [RejectedRow("kept", "train", str(i), "blank", "") for i in range(MAX_LISTED + 5)]
    data = collect(ListSource({"train": [group()]}, lost), ["train"], rows=9)
    assert data["facts"]["lost"] == {"blank": MAX_LISTED + 5}
    assert len(data["lost"]) == MAX_LISTED


def test_long_text_is_cut() -> None:
    """The text has at most MAX_CHARACTERS characters, and the row has its full length."""
    [row] = collect(ListSource({"train": [pair("x" * (MAX_CHARACTERS + 7), "y")]}), ["train"], rows=9)["rows"]
    assert len(row["responses"][0]["text"]) == MAX_CHARACTERS
    assert row["responses"][0]["length"] == MAX_CHARACTERS + 7


def test_spread_takes_rows_evenly_from_the_splits() -> None:
    """Of 90 and 10 rows nine and one are taken; all rows are taken where there are few."""
    chosen = list(spread({"train": 90, "val": 10, "test": 0}, at_most=10))
    assert chosen == [("train", index) for index in range(0, 90, 10)] + [("val", 0)]
    assert list(spread({"train": 2, "val": 1}, at_most=10)) == [("train", 0), ("train", 1), ("val", 0)]
    assert list(spread({"train": 0}, at_most=10)) == []


def test_model_scores_the_video_and_not_the_frames_on_the_page() -> None:
    """The page has frames in the place of a video; the group that is scored is the row's."""
    sample = video_groups()[0]
    scored = []

    def score(given: Group) -> list[float]:
        scored.append(given)
        return [1.0] * len(given.responses)

    [row] = collect(ListSource({"train": [sample]}), ["train"], rows=9, score=score)["rows"]
    assert scored == [sample]
    assert len(row["images"]) == 8
