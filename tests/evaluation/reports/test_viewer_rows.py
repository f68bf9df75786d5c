"""Plain data about rows: nothing is lost on the way, and the shares are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import Group, Preference, RejectedRow, Split, rank_preferences
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.reports.viewer_rows import MAX_CHARACTERS, MAX_LISTED, collect, rank, spread
from tests.helpers.support import group


class Kept:
    """A source of the groups that it is given."""

    def __init__(self, parts: dict[Split, list[Group]], lost: Sequence[RejectedRow] = ()) -> None:
        self.name = "kept"
        self.parts = parts
        self.losses = list(lost)

    def groups(self, split: Split) -> Sequence[Group]:
        return self.parts.get(split, [])

    def rejected(self, split: Split) -> list[RejectedRow]:
        return [row for row in self.losses if row.split == split]


def pair(chosen: str, rejected: str, *, name: str = "p", **more: Any) -> Group:
    """Two responses, the first preferred, or as good."""
    return Group(
        id=name, source="kept", prompt=(), responses=(chosen, rejected), preferences=(Preference(0, 1, **more),)
    )


def test_a_row_keeps_its_turns_responses_and_preferences() -> None:
    """Three ranked responses to a prompt with two pictures; each picture is at its place."""
    given = group(images=2, name="g")
    [row] = collect(Kept({"train": [given]}), ["train"], rows=9)["rows"]
    [turn] = row["turns"]
    assert turn["role"] == "user"
    assert turn["parts"] == [{"image": 0}, {"image": 1}, {"text": "Which digit?", "length": 12}]
    assert row["images"] == [0, 1]
    assert [response["text"] for response in row["responses"]] == list(given.responses)
    assert [response["rank"] for response in row["responses"]] == [0, 1, 2]
    assert [(p["winner"], p["loser"]) for p in row["pairs"]] == [(0, 1), (0, 2), (1, 2)]


def test_equal_pictures_are_kept_once() -> None:
    """Two rows about the same picture hold it together."""
    data = collect(Kept({"train": [group(images=1), group(images=1)]}), ["train"], rows=9)
    assert [row["images"] for row in data["rows"]] == [[0], [0]]
    assert len(data["pictures"]) == 1
    assert data["facts"]["images"] == 2
    assert (data["pictures"][0]["width"], data["pictures"][0]["height"]) == (56, 84)


def test_ties_weights_and_margins_are_told() -> None:
    """A margin that is no number is null, since JSON knows none."""
    preferences = (Preference(0, 1, weight=0.5, margin=2.0), Preference(1, 2, tie=True, margin=float("nan")))
    given = Group(id="g", source="kept", prompt=(), responses=("a", "b", "c"), preferences=preferences)
    [row] = collect(Kept({"train": [given]}), ["train"], rows=9)["rows"]
    assert [(p["weight"], p["margin"], p["tie"]) for p in row["pairs"]] == [(0.5, 2.0, False), (1.0, None, True)]
    assert [response["rank"] for response in row["responses"]] == [0, 1, 1]
    assert row["margin"] == 2.0


@pytest.mark.parametrize(
    ("ranking", "places"), [([0, 1], [0, 1]), ([5, 2, 9], [1, 0, 2]), ([1, 0, 1], [1, 0, 1]), ([3, 3], [0, 0])]
)
def test_places_are_those_of_the_ranking(ranking: list[int], places: list[int]) -> None:
    """Whatever numbers the ranks have."""
    assert rank(len(ranking), rank_preferences(ranking)) == places


def test_a_circle_has_some_order() -> None:
    """A source of somebody else's may hold one; it must not hang the page."""
    assert sorted(p for p in rank(3, [Preference(0, 1), Preference(1, 2), Preference(2, 0)]) if p is not None)[0] == 0


def test_shares_of_length_and_of_the_model() -> None:
    """Of four untied pairs one has equal lengths; of the other three the longer wins in two (2/3). Scores that are the
    lengths follow length in all three, are right in those two, and tie in the fourth, which is not right: 2/4."""
    groups = [pair("long", "x"), pair("long", "y"), pair("z", "long"), pair("a", "b"), pair("longest", "c", tie=True)]
    facts = collect(Kept({"train": groups}), ["train"], rows=9, score=lambda g: [float(len(r)) for r in g.responses])[
        "facts"
    ]
    assert (facts["pairs"], facts["longer_wins"], facts["follows_length"], facts["accuracy"]) == (4, 2 / 3, 1.0, 0.5)


def test_the_worst_margin_is_that_of_the_model() -> None:
    """Scores 3, 5 and 4 of three ranked responses: the margins are -2, -1 and 1."""
    [row] = collect(Kept({"train": [group()]}), ["train"], rows=9, score=lambda _: [3.0, 5.0, 4.0])["rows"]
    assert [p["model"] for p in row["pairs"]] == [-2.0, -1.0, 1.0]
    assert row["margin"] == -2.0
    assert [response["score"] for response in row["responses"]] == [3.0, 5.0, 4.0]


def test_a_row_that_cannot_be_scored_is_shown_without_scores() -> None:
    """It has its reason, and is neither among the lost nor among those that the model is wrong about."""

    def score(given: Group) -> list[float]:
        if given.id == "long":
            raise RowRejected("too_long", "600 tokens")
        return [1.0, 0.0]

    groups = [pair("a", "b", name="short"), pair("c", "d", name="long", margin=0.5)]
    data = collect(Kept({"train": groups}), ["train"], rows=9, score=score)
    assert [row["unscored"] for row in data["rows"]] == [None, "too_long: 600 tokens"]
    assert [row["margin"] for row in data["rows"]] == [1.0, None]
    assert (data["facts"]["unscored"], data["facts"]["accuracy"], data["facts"]["lost"]) == (1, 1.0, {})


def test_a_score_that_is_no_number_is_not_right() -> None:
    """It is null, and its pair counts as wrong."""
    data = collect(Kept({"train": [pair("a", "b")]}), ["train"], rows=9, score=lambda _: [float("nan"), 0.0])
    assert data["rows"][0]["responses"][0]["score"] is None
    assert data["facts"]["accuracy"] == 0.0
    json.dumps(data, allow_nan=False)


def test_lost_rows_are_counted_and_listed(tmp_path: Path) -> None:
    """Those that the source lost, and those whose picture does not open, which are no usable groups."""
    missing = Group(id="m", source="kept", prompt=(), responses=("a", "b"), images=(str(tmp_path / "no.png"),))
    lost = [
        RejectedRow("kept", "train", "e", "empty_response", "line 3"),
        RejectedRow("kept", "val", "f", "empty_response", "line 9"),
    ]
    data = collect(Kept({"train": [missing, group()], "val": [group()]}, lost), ["train", "val", "test"], rows=9)
    facts = data["facts"]
    assert (facts["rows"], facts["groups"], facts["shown"]) == (5, 2, 2)
    assert facts["lost"] == {"empty_response": 2, "image_missing": 1}
    assert [(row["id"], row["split"]) for row in data["lost"]] == [("e", "train"), ("f", "val"), ("m", "train")]
    assert "no.png" in data["lost"][2]["detail"]
    assert data["splits"] == {"train": 3, "val": 2}


def test_many_lost_rows_are_all_counted() -> None:
    """The list ends before a page is of no use any more."""
    lost = [RejectedRow("kept", "train", str(i), "blank", "") for i in range(MAX_LISTED + 5)]
    data = collect(Kept({"train": [group()]}, lost), ["train"], rows=9)
    assert data["facts"]["lost"] == {"blank": MAX_LISTED + 5}
    assert len(data["lost"]) == MAX_LISTED


def test_a_long_text_is_cut_and_its_length_is_kept() -> None:
    """A page of megabytes a row could not be opened."""
    [row] = collect(Kept({"train": [pair("x" * (MAX_CHARACTERS + 7), "y")]}), ["train"], rows=9)["rows"]
    assert len(row["responses"][0]["text"]) == MAX_CHARACTERS
    assert row["responses"][0]["length"] == MAX_CHARACTERS + 7


def test_rows_are_spread_evenly_over_the_parts() -> None:
    """Of 90 and 10 rows ten are taken: nine and one. All are taken where there are few."""
    chosen = list(spread({"train": 90, "val": 10, "test": 0}, at_most=10))
    assert chosen == [("train", i) for i in range(0, 90, 10)] + [("val", 0)]
    assert list(spread({"train": 2, "val": 1}, at_most=10)) == [("train", 0), ("train", 1), ("val", 0)]
    assert list(spread({"train": 0}, at_most=10)) == []
