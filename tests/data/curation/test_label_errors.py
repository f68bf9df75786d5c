"""Preferences that models contradict are dropped or turned round, from the threshold of confident learning on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit, logit

from basereward.data.curation.label_errors import (
    Decided,
    ErrorRule,
    confident_threshold,
    correct,
    precision_and_recall,
)
from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError

MakeGroup = Callable[..., Group]


def test_threshold_is_that_of_confident_learning() -> None:
    """The pair as two classes, each example once in either order: the class thresholds of Northcutt et al. (mean
    probability of the class among its examples) give the same errors."""
    margins = np.random.default_rng(0).normal(1.0, 1.5, 500)
    probabilities = np.concatenate([expit(margins[::2]), expit(-margins[1::2])])  # of class 1
    labels = np.concatenate([np.ones(250, int), np.zeros(250, int)])
    # The classes are symmetric: a pair in the other order has the other class.
    both = np.concatenate([probabilities, 1 - probabilities]), np.concatenate([labels, 1 - labels])
    thresholds = [(1 - both[0])[both[1] == 0].mean(), both[0][both[1] == 1].mean()]
    other = np.where(labels == 1, 1 - probabilities, probabilities)
    expected = other >= np.where(labels == 1, thresholds[0], thresholds[1])
    found = confident_threshold(margins.tolist())
    assert found == pytest.approx(logit(expit(margins).mean()))
    assert (np.concatenate([margins[::2], margins[1::2]]) <= -found).tolist() == expected.tolist()
    assert 0 < expected.sum() < 250


@pytest.mark.parametrize(
    ("margins", "expected"), [([], math.inf), ([-3.0, 1.0], 0.0), ([-800.0], 0.0), ([800.0], math.inf)]
)
def test_threshold_of_margins_at_the_ends(margins: list[float], expected: float) -> None:
    """No margins and certain models: nothing is an error. Models that are worse than chance: no threshold."""
    assert confident_threshold(margins) == expected


def test_each_preference_is_decided_by_its_own_margin(make_group: MakeGroup) -> None:
    """Of a ranking one preference stays, one is dropped and one is turned round; the tie stays. What generative heads
    learn from is left out, since it says the opposite."""
    preferences = [
        Preference(0, 1, margin=2.0),
        Preference(0, 2, margin=2.0),
        Preference(1, 3),
        Preference(2, 3, tie=True),
    ]
    group = make_group("q", "a", "b", "c", "d", preferences=preferences)
    left, decided = correct(group, [0.0, -1.0, 1.5, 2.0], ErrorRule(drop=1.0, flip=2.5))
    assert left is not None
    assert set(left.preferences) == {preferences[0], Preference(3, 1), preferences[3]}
    assert [(item.winner, item.loser, item.margin, item.decision) for item in decided] == [
        (0, 1, 1.0, "keep"),
        (0, 2, -1.5, "drop"),
        (1, 3, -3.0, "flip"),
    ]


def test_a_group_without_errors_is_unchanged_and_one_of_errors_alone_is_gone(make_group: MakeGroup) -> None:
    """The same object, so that nothing of it is lost; None otherwise. A margin of 0 contradicts no label."""
    group = make_group("q", "a", "b")
    assert correct(group, [1.0, 0.0], ErrorRule(drop=0.0))[0] is group
    assert correct(group, [0.0, 0.0], ErrorRule(drop=0.0, flip=0.0))[0] is group
    assert correct(group, [0.0, 1.0], ErrorRule(drop=0.5))[0] is None


@pytest.mark.parametrize("scores", [[1.0], [1.0, math.nan]])
def test_scores_that_do_not_fit_are_an_error(make_group: MakeGroup, scores: list[float]) -> None:
    """One finite number for each response."""
    with pytest.raises(DataError, match="'g'"):
        correct(make_group("q", "a", "b", group_id="g"), scores, ErrorRule(drop=1.0))


def test_precision_and_recall_of_nothing_are_not_numbers() -> None:
    """Nothing changed: no precision. Nothing wrong: no recall."""
    precision, recall, changed = precision_and_recall([Decided("a", 0, 1, 1.0, "keep")], {"a": False})
    assert (math.isnan(precision), math.isnan(recall), changed) == (True, True, 0)
