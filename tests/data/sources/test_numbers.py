"""The embedded numbers: no set of numbers is in two splits, and only the question determines the right answer."""

from __future__ import annotations

import itertools
import pickle
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from basereward.data.schema.group import SPLITS, Group
from basereward.data.sources.numbers import Numbers
from basereward.errors import DataError
from basereward.recipe import find_experiment


def _question(group: Group) -> str:
    """Return the text of the prompt."""
    text = group.prompt[0].parts[0].text
    assert text is not None
    return text


def _numbers_in(text: str) -> list[int]:
    """Return the numbers of a text."""
    return [int(number) for number in re.findall(r"\d+", text)]


def _true_responses(group: Group) -> set[int]:
    """Return the indices of the right responses."""
    return {preference.winner for preference in group.preferences}


def test_no_set_of_numbers_is_in_two_splits() -> None:
    """In any order, and for both directions of the question."""
    source = Numbers("n")
    sets = {split: {frozenset(_numbers_in(_question(group))) for group in source.groups(split)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sets[one] & sets[other]
    assert [len(source.groups(split)) for split in SPLITS] == [4000, 300, 300]


def test_right_number_wins_against_all_others() -> None:
    """The right answer is derived from the question: the largest or smallest of its numbers."""
    for split in SPLITS:
        for group in Numbers("n", size=600).groups(split):
            numbers = _numbers_in(_question(group))
            numbers_of_responses = [_numbers_in(response) for response in group.responses]
            assert sorted(n for [n] in numbers_of_responses) == sorted(numbers)
            right = max(numbers) if "large" in _question(group) else min(numbers)
            winner = numbers_of_responses.index([right])
            assert {(p.winner, p.loser) for p in group.preferences} == {
                (winner, i) for i in range(len(numbers)) if i != winner
            }


def test_group_sizes_are_equally_frequent() -> None:
    """Two numbers have `larger` or `smaller`, more have `largest` or `smallest`; both directions are equally
    frequent."""
    groups = list(Numbers("n", size=3000).groups("train"))
    assert Counter(len(group.responses) for group in groups) == {2: 1000, 3: 1000, 4: 1000}
    for group in groups:
        assert ("larger" in _question(group) or "smaller" in _question(group)) == (len(group.responses) == 2)
    larger = sum("large" in _question(group) for group in groups)
    assert chisquare([larger, 3000 - larger]).pvalue > 0.001


def test_wording_is_independent_of_truth() -> None:
    """With two numbers, each wording and each index is right in half of its uses."""
    uses: Counter[tuple[str, bool]] = Counter()
    positions: Counter[int] = Counter()
    for group in Numbers("n", size=4000, counts=[2]).groups("train"):
        positions.update(_true_responses(group))
        for i, response in enumerate(group.responses):
            wording = re.sub(r"\d+", "N", re.sub("larger|smaller", "D", response))
            uses[wording, i in _true_responses(group)] += 1
    wordings = sorted({wording for wording, _ in uses})
    assert len(wordings) == 4
    true_uses = np.array([uses[wording, True] for wording in wordings])
    all_uses = true_uses + np.array([uses[wording, False] for wording in wordings])
    assert chisquare(true_uses, all_uses / 2).pvalue > 0.001
    assert chisquare(all_uses).pvalue > 0.001
    assert chisquare([positions[0], positions[1]]).pvalue > 0.001


def test_questions_are_distinct() -> None:
    """A question is its numbers in order and its direction."""
    groups = Numbers("n").groups("train")
    questions = {(tuple(_numbers_in(_question(group))), "large" in _question(group)) for group in groups}
    assert len(questions) == 4000


def test_the_same_arguments_give_the_same_groups() -> None:
    """In any order of access and after pickling; another seed gives other groups."""
    groups = Numbers("n").groups("test")
    unpickled = pickle.loads(pickle.dumps(Numbers("n").groups("test")))  # noqa: S301
    assert [unpickled[i] for i in (7, 3, -1)] == [groups[7], groups[3], groups[299]]
    assert list(Numbers("n", seed=1).groups("test")) != list(groups)


def test_too_few_possible_questions_is_an_error() -> None:
    """Two numbers below 5 give only 20 ordered pairs, so 300 different questions are impossible."""
    with pytest.raises(DataError, match="source 'n': the train split has only about"):
        len(Numbers("n", size=300, counts=[2], lowest=0, below=5).groups("train"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": [1, 2]}, r"counts=\[1, 2\]"),
        ({"counts": []}, r"counts=\[\]"),
        ({"counts": [4], "lowest": 0, "below": 3}, "below=3"),
        ({"size": -1}, "-1"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, object], message: str) -> None:
    """The message contains the source's name and the value."""
    with pytest.raises(DataError, match=message):
        Numbers("n", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", ["below=1000000000000000000000000", "lowest=-1", "below=1e20"])
def test_too_large_numbers_are_a_fault(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python cannot sample from ranges above 2**63; `check` reports it before anything runs."""
    monkeypatch.chdir(Path(__file__).parents[3])
    key = f"data.sources.numbers.{arguments}"
    _, faults = find_experiment("basereward", profile="tests/small.yaml", overrides=[key])
    assert [fault.key for fault in faults] == [key.partition("=")[0]]
