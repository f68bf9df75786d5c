"""Parses the verdict or the rating in the text of a judge. Text without the expected form has no verdict."""

from __future__ import annotations

import re

TAG = re.compile(r"</?answer>")
# The tags around reasoning, as in R1-Reward (arXiv 2505.02835).
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
MAX_PATTERN_CHARACTERS = 50_000
"""Longest text in which a user's pattern is searched: the time of a search may grow with the square of the length."""


def parse_verdict(text: str, pattern: re.Pattern[str] | None = None) -> int | None:
    """The number of the better answer, 1 or 2; None if the text does not give exactly one.

    Args:
        text: of the judge. Only the part after the last `</think>` is parsed; truncated reasoning has no verdict.
        pattern: with one group around the number; None: `<answer>1</answer>`. A text with more than
            `MAX_PATTERN_CHARACTERS` after its reasoning has no verdict by a pattern.

    >>> parse_verdict("<think>The second is false.</think><answer>1</answer>"), parse_verdict("Answer 1, or 2?")
    (1, None)
    """
    answer = _answer(text, pattern)
    return int(answer) if answer in ("1", "2") else None


def parse_rating(text: str, *, scale: int, pattern: re.Pattern[str] | None = None) -> int | None:
    """The rating, 1 to `scale`; None if the text does not give exactly one.

    >>> parse_rating("<answer>4</answer>", scale=5), parse_rating("<answer>7</answer>", scale=5)
    (4, None)
    """
    answer = _answer(text, pattern)
    # `int` alone would accept signs, underscores, digits of other scripts, and texts of millions of digits.
    if answer is None or not re.fullmatch(r"[0-9]{1,3}", answer):
        return None
    rating = int(answer)
    return rating if 1 <= rating <= scale else None


def compiled_pattern(text: str) -> re.Pattern[str]:
    """Compiles a user's regular expression for a verdict, such as a benchmark's `Answer ([12]) is better`.

    Raises:
        ValueError: it is not a regular expression, or does not have exactly one group.

    >>> parse_verdict("Answer 2 is better", compiled_pattern("Answer ([12]) is better"))
    2
    """
    try:
        pattern = re.compile(text, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern '{text}' is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(f"pattern '{text}' has {pattern.groups} groups; one is needed, around the number")
    return pattern


def _answer(text: str, pattern: re.Pattern[str] | None) -> str | None:
    """The answer that all matches agree on; None if there is no match, or they differ."""
    rest = text.rpartition(THINK_CLOSE)[2]
    # The text was truncated within its reasoning, which may name both answers before it decides.
    if THINK_OPEN in rest:
        return None
    matches: list[str] = []
    if pattern is None:
        matches = _tagged(rest)
    elif len(rest) <= MAX_PATTERN_CHARACTERS:
        matches = pattern.findall(rest)
    answers = {match.strip() for match in matches}
    return answers.pop() if len(answers) == 1 else None


def _tagged(text: str) -> list[str]:
    """The texts between `<answer>` and `</answer>`; an empty list if the tags do not alternate.

    A single tag that is left over begins another answer, which might be a different one. The time is linear in the
    length of the text; a regular expression for pairs of tags would take quadratic time.

    >>> _tagged("<answer>1</answer>, I say: <answer> 1 </answer>"), _tagged("<answer>1</answer> or <answer>2")
    (['1', ' 1 '], [])
    """
    # Strings and not match objects: hundreds of thousands of those slow the garbage collector down.
    tags = TAG.findall(text)
    if tags != ["<answer>", "</answer>"] * (len(tags) // 2):
        return []
    return TAG.split(text)[1::2]
