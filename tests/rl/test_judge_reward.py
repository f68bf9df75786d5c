"""Test the reward R = 0.5 F + A (1 + 0.5 C) over all its parts, the format, the verdict and the labels."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.rl.judge_reward import RewardParts, checked_label, is_formatted, judged

GOOD = "<think>2 is\nfalse.</think><answer>1</answer>"


def test_reward_over_all_formats_verdicts_and_consistencies() -> None:
    """Right answers earn 2.0, 1.5 or 1.0 with the format and half a point less without; wrong ones 0.5 or 0."""
    expected = {(1, 1): {1: 2.0, 0: 1.5, -1: 1.0}, (0, 1): {1: 1.5, 0: 1.0, -1: 0.5}}
    for formatted, right, consistency in product((0, 1), (0, 1), (-1, 0, 1)):
        parts = RewardParts(bool(formatted), bool(right), consistency)  # type: ignore[arg-type]
        by_hand = expected[formatted, right][consistency] if right else 0.5 * formatted
        assert parts.reward == by_hand, parts


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        (GOOD, True),
        ("<think></think><answer></answer>", True),
        ("Well. " + GOOD, False),
        (GOOD + " Done.", False),
        ("<think>a</think> <answer>1</answer>", False),
        ("<think>a <think>b</think><answer>1</answer>", False),
        ("<think>a</think><answer>1</answer><answer>1</answer>", False),
        ("<answer>1</answer>", False),
        ("", False),
    ],
)
def test_format_has_each_opening_tag_once_and_nothing_around(text: str, formatted: bool) -> None:
    """A dot of the pattern matches a line break."""
    assert is_formatted(text) is formatted


def test_verdict_counts_without_the_format_and_never_from_reasoning_that_was_cut() -> None:
    """Text after the verdict costs the format alone; a text without a verdict is not right for any label."""
    assert judged(GOOD + " Done.", 1) == RewardParts(formatted=False, right=True)
    assert judged(GOOD, 2) == RewardParts(formatted=True, right=False)
    for label in (1, 2):
        assert not judged("<think>1 is better, <answer>1</answer><answer>2</answer>", label).right  # type: ignore[arg-type]
        assert judged("", label).reward == 0  # type: ignore[arg-type]


def test_format_of_a_long_text_takes_linear_time() -> None:
    """Two hundred thousand closing tags are read once; the time of a search that goes back would be their square."""
    assert not is_formatted("<think>" + "</think>" * 200_000 + "<answer>1")


@pytest.mark.parametrize("label", [0, 3, -1, 1.5, "1", "first", None, True, float("nan")])
def test_other_labels_are_refused(label: Any) -> None:
    """Labels that count from 0, texts and ties would train the judge on another verdict."""
    with pytest.raises(DataError, match="row 7"):
        checked_label(label, where="row 7")
    assert [checked_label(value, where="row 7") for value in (1, 2, 2.0)] == [1, 2, 2]
