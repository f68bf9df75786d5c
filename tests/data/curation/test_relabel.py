"""Preferences that a trained model contradicts are dropped or down-weighted."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from basereward.data.curation.relabel import relabel, relabel_all
from basereward.data.schema.group import Group, Preference, RejectedRow
from basereward.errors import DataError

MakeGroup = Callable[..., Group]


def test_relabel_keeps_down_weights_or_drops_by_margin(make_group: MakeGroup) -> None:
    """With a threshold of 2, a margin of 1 is kept, -1 gets the weight 2 / (1 + e), and -3 is dropped."""
    preferences = [Preference(0, 1, weight=0.5), Preference(0, 2, weight=0.5, margin=4.0), Preference(0, 3)]
    group = make_group("q", "a", "b", "c", "d", preferences=preferences)
    relabelled = relabel(group, [0.0, -1.0, 1.0, 3.0], drop=2.0)
    assert isinstance(relabelled, Group)
    assert relabelled.preferences[0] is group.preferences[0]
    assert relabelled.preferences[1:] == (Preference(0, 2, weight=pytest.approx(0.5 * 2 / (1 + math.e)), margin=4.0),)
    assert (relabelled.id, relabelled.prompt, relabelled.responses, relabelled.images) == (
        group.id,
        group.prompt,
        group.responses,
        (),
    )


@pytest.mark.parametrize(("margin", "is_kept"), [(-2.0, True), (-2.0000001, False)])
def test_margin_at_the_threshold_is_kept(make_group: MakeGroup, margin: float, is_kept: bool) -> None:
    """A preference is dropped only below -drop."""
    assert isinstance(relabel(make_group("q", "a", "b"), [margin, 0.0], drop=2.0), Group) == is_kept


def test_group_without_remaining_preferences_is_rejected(make_group: MakeGroup) -> None:
    """The reason is `disagrees`; the detail says what the model prefers and by how much."""
    group = make_group("q", "a", "b", "c", preferences=[Preference(0, 1), Preference(2, 1)], group_id="7")
    rejected = relabel(group, [0.0, 5.0, 1.0], drop=2.0, split="val")
    assert rejected == RejectedRow(
        "hand", "val", "7", "disagrees", "the model prefers 1 to 0 by 5, 1 to 2 by 4, more than 2"
    )


def test_ties_are_kept(make_group: MakeGroup) -> None:
    """A tie is kept at any margin, and a group with only a tie left is kept too."""
    tie = Preference(0, 1, tie=True)
    relabelled = relabel(make_group("q", "a", "b", "c", preferences=[tie, Preference(0, 2)]), [0.0, 9.0, 9.0], drop=1.0)
    assert isinstance(relabelled, Group)
    assert relabelled.preferences == (tie,)


def test_group_without_preferences_is_unchanged(make_group: MakeGroup) -> None:
    """It has no preference that a model could contradict."""
    group = make_group("q", "a", preferences=[])
    assert relabel(group, [1.0], drop=0.0) == group


def test_relabel_has_its_invariants(make_group: MakeGroup) -> None:
    """Over 300 random groups: shifting all scores changes nothing, an infinite threshold drops nothing, weights stay
    between 2 / (1 + e^2) and 1, and relabelling twice drops no more."""
    rng = random.Random(0)
    group = make_group("q", *"abcd", preferences=[Preference(i, j) for i in range(4) for j in range(i + 1, 4)])
    for _ in range(300):
        scores = [rng.gauss(0, 3) for _ in range(4)]
        relabelled, shifted = (relabel(group, [s + shift for s in scores], drop=2.0) for shift in (0.0, 8.0))
        if isinstance(relabelled, RejectedRow) or isinstance(shifted, RejectedRow):
            assert isinstance(relabelled, RejectedRow)
            assert isinstance(shifted, RejectedRow)
            continue
        assert [(p.winner, p.loser) for p in relabelled.preferences] == [
            (p.winner, p.loser) for p in shifted.preferences
        ]
        assert [p.weight for p in relabelled.preferences] == pytest.approx([p.weight for p in shifted.preferences])
        assert all(2 / (1 + math.exp(2)) <= p.weight <= 1 for p in relabelled.preferences)
        twice = relabel(relabelled, scores, drop=2.0)
        assert isinstance(twice, Group)
        assert len(twice.preferences) == len(relabelled.preferences)
        unlimited = relabel(group, scores, drop=math.inf)
        assert isinstance(unlimited, Group)
        assert len(unlimited.preferences) == 6


def test_summary_counts_kept_and_dropped_preferences(make_group: MakeGroup) -> None:
    """Four groups: one agrees, one is down-weighted, one loses a preference, one is rejected."""
    pair = make_group("q", "a", "b")
    triple = make_group(
        "q", "a", "b", "c", preferences=[Preference(0, 1), Preference(0, 2), Preference(1, 2, tie=True)]
    )
    scored = [(pair, [1.0, 0.0]), (pair, [0.0, 1.0]), (triple, [0.0, -1.0, 5.0]), (pair, [0.0, 3.0])]
    results, summary = relabel_all(scored, drop=2.0)
    assert [isinstance(result, RejectedRow) for result in results] == [False, False, False, True]
    assert (summary.drop, summary.num_groups, summary.num_lost, summary.num_ties) == (2.0, 4, 1, 1)
    assert (summary.num_preferences, summary.num_dropped, summary.num_down_weighted) == (5, 2, 1)
    assert summary.weight_before == 5.0
    assert summary.weight_after == pytest.approx(2 + 2 / (1 + math.e))


@pytest.mark.parametrize(
    ("scores", "drop"),
    [([1.0], 2.0), ([1.0, math.nan], 2.0), ([1.0, math.inf], 2.0), ([1.0, 2.0], -1.0), ([1.0, 2.0], math.nan)],
)
def test_invalid_scores_or_threshold_are_an_error(make_group: MakeGroup, scores: list[float], drop: float) -> None:
    """A missing or non-finite score, and a negative or NaN threshold, raise `DataError`."""
    with pytest.raises(DataError):
        relabel(make_group("q", "a", "b"), scores, drop=drop)
