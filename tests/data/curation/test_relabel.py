"""What a trained model contradicts is dropped or weighs less, by the rule that is stated."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from basereward.data.curation.relabel import relabel, relabel_all
from basereward.data.schema.group import Group, Preference, RejectedRow
from basereward.errors import DataError

MakeGroup = Callable[..., Group]


def test_each_preference_by_its_margin(make_group: MakeGroup) -> None:
    """Margins 1, -1 and -3 with a threshold of 2: kept as it is, weighed down to 2 / (1 + e), dropped."""
    preferences = [Preference(0, 1, weight=0.5), Preference(0, 2, weight=0.5, margin=4.0), Preference(0, 3)]
    group = make_group("q", "a", "b", "c", "d", preferences=preferences)
    after = relabel(group, [0.0, -1.0, 1.0, 3.0], drop=2.0)
    assert isinstance(after, Group)
    assert after.preferences[0] is group.preferences[0]
    assert after.preferences[1:] == (Preference(0, 2, weight=pytest.approx(0.5 * 2 / (1 + math.e)), margin=4.0),)
    assert (after.id, after.prompt, after.responses, after.images) == (group.id, group.prompt, group.responses, ())


@pytest.mark.parametrize(("margin", "kept"), [(-2.0, True), (-2.0000001, False)])
def test_the_threshold_itself_is_kept(make_group: MakeGroup, margin: float, kept: bool) -> None:
    """Only below -drop is a preference dropped."""
    assert isinstance(relabel(make_group("q", "a", "b"), [margin, 0.0], drop=2.0), Group) == kept


def test_a_group_that_keeps_nothing_is_lost(make_group: MakeGroup) -> None:
    """Under the reason `disagrees`, with what the model prefers and by how much."""
    group = make_group("q", "a", "b", "c", preferences=[Preference(0, 1), Preference(2, 1)], group_id="7")
    lost = relabel(group, [0.0, 5.0, 1.0], drop=2.0, split="val")
    assert lost == RejectedRow(
        "hand", "val", "7", "disagrees", "the model prefers 1 to 0 by 5, 1 to 2 by 4, more than 2"
    )


def test_ties_stay(make_group: MakeGroup) -> None:
    """However far apart the model has them; a group whose ties are all that is left stays too."""
    tie = Preference(0, 1, tie=True)
    after = relabel(make_group("q", "a", "b", "c", preferences=[tie, Preference(0, 2)]), [0.0, 9.0, 9.0], drop=1.0)
    assert isinstance(after, Group)
    assert after.preferences == (tie,)


def test_a_group_without_preferences_has_none_to_lose(make_group: MakeGroup) -> None:
    """It says nothing that a model could contradict."""
    group = make_group("q", "a", preferences=[])
    assert relabel(group, [1.0], drop=0.0) == group


def test_the_laws_of_the_rule(make_group: MakeGroup) -> None:
    """Over 300 random groups: a shift of all scores changes nothing, an endless threshold drops nothing, no weight
    grows or vanishes, and dropping twice is dropping once."""
    rng = random.Random(0)
    group = make_group("q", *"abcd", preferences=[Preference(i, j) for i in range(4) for j in range(i + 1, 4)])
    for _ in range(300):
        scores = [rng.gauss(0, 3) for _ in range(4)]
        after, shifted = (relabel(group, [s + shift for s in scores], drop=2.0) for shift in (0.0, 8.0))
        if isinstance(after, RejectedRow) or isinstance(shifted, RejectedRow):
            assert isinstance(after, RejectedRow)
            assert isinstance(shifted, RejectedRow)
            continue
        assert [(p.winner, p.loser) for p in after.preferences] == [(p.winner, p.loser) for p in shifted.preferences]
        assert [p.weight for p in after.preferences] == pytest.approx([p.weight for p in shifted.preferences])
        assert all(2 / (1 + math.exp(2)) <= p.weight <= 1 for p in after.preferences)
        again = relabel(after, scores, drop=2.0)
        assert isinstance(again, Group)
        assert len(again.preferences) == len(after.preferences)
        endless = relabel(group, scores, drop=math.inf)
        assert isinstance(endless, Group)
        assert len(endless.preferences) == 6


def test_the_summary_tells_the_threshold_and_what_became_of_all(make_group: MakeGroup) -> None:
    """Four groups: agreed, doubted, dropped in part, lost."""
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
def test_what_makes_no_sense_is_refused(make_group: MakeGroup, scores: list[float], drop: float) -> None:
    """A score that is missing or not finite, a threshold below zero."""
    with pytest.raises(DataError):
        relabel(make_group("q", "a", "b"), scores, drop=drop)
