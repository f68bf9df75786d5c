"""Test accuracy by the number of votes against the binomial closed form, and the difference of accuracies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from scipy.stats import binom

from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.statistics.votes import accuracy_difference, accuracy_over_votes


def judged(votes: Sequence[int | None], row: int = 0) -> JudgedItem:
    """Return an item of its own prompt whose first response is right, with votes."""
    return JudgedItem(Item(row, f"{row}", "?", ("a", "b"), (0,), (1,), f"{row}"), Outcome(votes=tuple(votes)))


def test_accuracy_is_the_mean_over_all_choices_of_votes() -> None:
    """The share of all 3 of 5 votes with two right ones or more, by enumeration; a vote without a verdict is not
    right."""
    votes = (0, 0, 1, None, 0)
    choices = list(itertools.combinations(votes, 3))
    expected = sum(choice.count(0) > 1.5 for choice in choices) / len(choices)
    measures = accuracy_over_votes([judged(votes)])
    assert list(measures) == ["overall", "votes_1", "votes_3", "votes_5"]
    assert measures["overall"].value == 1.0
    assert measures["votes_3"].value == pytest.approx(expected)
    assert (measures["votes_1"].value, measures["votes_5"].value) == (pytest.approx(0.6), 1.0)


def test_independent_votes_follow_the_binomial_majority() -> None:
    """Votes that are right with chance 0.6: the accuracy of k votes is P(Binomial(k, 0.6) > k / 2), from 0.6 to 0.733
    at 9 votes, and each is within the interval of 1,500 items."""
    rng = random.Random(0)
    items = [judged([0 if rng.random() < 0.6 else 1 for _ in range(9)], row) for row in range(1500)]
    measures = accuracy_over_votes(items)
    for votes in (1, 3, 5, 7, 9):
        expected = binom.sf(votes // 2, votes, 0.6)
        interval = measures[f"votes_{votes}"].interval
        assert interval is not None
        assert interval[0] <= expected <= interval[1]
        assert interval[1] - interval[0] < 0.06


def test_macro_is_the_mean_over_categories() -> None:
    """Three right items of one category and one wrong item of another: 0.75 over items, 0.5 over categories."""
    right, wrong = [judged((0, 0, 0), row) for row in range(3)], [judged((1, 1, 1), 3)]
    measures = accuracy_over_votes([*right, *wrong], categories={"a": right, "b": wrong})
    assert measures["votes_3"].value == 0.75
    assert measures["macro votes_3"].value == 0.5


def test_outcomes_without_several_votes_are_not_counted() -> None:
    """Scores and two votes give a measure without a denominator, which `eval` leaves out."""
    item = judged((0, 0)).item
    for outcome in (Outcome(scores=(1.0, 0.0)), Outcome(votes=(0, 0))):
        measures = accuracy_over_votes([JudgedItem(item, outcome)])
        assert [measure.denominator for measure in measures.values()] == [0]


def test_difference_counts_decided_items() -> None:
    """2 of 3 decided items against 1 of 2: 1/6. An undecided item is left out, and swapping changes the sign."""
    first = [judged((0,), 0), judged((0,), 1), judged((1,), 2), judged((None,), 3)]
    second = [judged((0,), 4), judged((1,), 5)]
    difference = accuracy_difference(first, second)
    assert (difference.first, difference.second) == (pytest.approx(2 / 3), 0.5)
    assert difference.value == pytest.approx(1 / 6)
    assert accuracy_difference(second, first).value == pytest.approx(-1 / 6)


def test_difference_of_equal_chances_covers_zero() -> None:
    """Of 60 pairs of samples with the same chance, the interval holds 0 in at least 50, four standard deviations below
    57. Items in both samples are drawn together, and the same items differ by exactly 0."""
    rng = random.Random(2)
    covered = 0
    for _ in range(60):
        items = [judged((0 if rng.random() < 0.7 else 1,), row) for row in range(200)]
        difference = accuracy_difference(items[:100], items[100:])
        assert difference.low is not None
        assert difference.high is not None
        covered += difference.low <= 0 <= difference.high
        same = accuracy_difference(items, items)
        assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert covered >= 50
