"""Parsing of verdicts and ratings: an ambiguous or incomplete text gives no verdict."""

from __future__ import annotations

import pytest

from basereward.model.generation.verdicts import compiled_pattern, parse_rating, parse_verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<answer>1</answer>", 1),
        ("<think>It is 7.</think><answer>2</answer>", 2),
        ("<think>It is 7.</think>\n<answer> 2 </answer>\n", 2),
        ("<answer>2</answer> So: <answer>2</answer>", 2),
        ("<think>First <answer>1</answer>, no.</think><answer>2</answer>", 2),
        ("<think>a</think><think>b</think><answer>1</answer>", 1),
        ("<answer>1</answer><answer>2</answer>", None),
        ("<answer>1</answer> or rather <answer>2", None),
        ("<answer><answer>1</answer></answer>", None),
        ("<answer>1</answer>2</answer>", None),
        ("<answer>1</answer><answer>3</answer>", None),
        ("<answer>1, 2</answer>", None),
        ("<answer>1</answer><think>No,", None),
        ("<think>a</think><answer>1</answer><think>No, it is 2", None),
        ("<answer>1</answer><think>No, it is the second.</think>", None),
        ("<think>So <answer>1</answer>", None),
        ("<think>So it is 1", None),
        ("<answer>3</answer>", None),
        ("<answer>12</answer>", None),
        ("<answer></answer>", None),
        ("<answer>1", None),
        ("1", None),
        ("", None),
        ("<answer>Answer 1</answer>", None),
        ("<answer>\u0661</answer>", None),
    ],
)
def test_parse_verdict(text: str, verdict: int | None) -> None:
    """A text has a verdict only if it states one answer after its reasoning in closed tags."""
    assert parse_verdict(text) == verdict


def test_user_pattern() -> None:
    """A user's pattern replaces the tags and is searched after the reasoning; it needs exactly one group."""
    pattern = compiled_pattern(r"Overall Judgment.*?Answer ([12]) is (?:slightly )?better")
    assert parse_verdict("**Overall Judgment**: Answer 2 is slightly better.", pattern) == 2
    assert parse_verdict("Answer 2 is better.", pattern) is None
    assert parse_verdict("<think>An Overall Judgment may be that Answer 2 is better; but", pattern) is None
    assert parse_verdict("<think>Answer 1?</think>Overall Judgment: Answer 2 is better", pattern) == 2
    with pytest.raises(ValueError, match="2 groups"):
        compiled_pattern("(1)(2)")
    with pytest.raises(ValueError, match="not a regular expression"):
        compiled_pattern("([12]")


@pytest.mark.parametrize(
    ("text", "rating"), [("<answer>5</answer>", 5), ("<answer>0</answer>", None), ("<answer>6</answer>", None)]
)
def test_rating_is_within_the_scale(text: str, rating: int | None) -> None:
    """A rating outside of the scale 1 to 5 is no rating."""
    assert parse_rating(text, scale=5) == rating
