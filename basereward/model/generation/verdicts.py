"""What a judge's text comes to. Text that does not say it in the agreed form says nothing: no verdict is guessed."""

from __future__ import annotations

import re

TAG = re.compile(r"</?answer>")
THINKING, THOUGHT = "<think>", "</think>"
MOST_LETTERS = 50_000
"""Letters that a pattern of a user's own is searched in; the time of a search may grow with their square."""


def parse_verdict(text: str, pattern: re.Pattern[str] | None = None) -> int | None:
    """1 or 2: the number of the better answer; None where the text does not say it once and plainly.

    Args:
        text: what the judge wrote. Only what comes after its last `</think>` counts, where there is one; of reasoning
            that was cut nothing does.
        pattern: with one group that holds the number; by default `<answer>1</answer>`. A text of more than
            `MOST_LETTERS` after its reasoning has no verdict by a pattern.

    >>> parse_verdict("<think>The second is false.</think><answer>1</answer>"), parse_verdict("Answer 1, or 2?")
    (1, None)
    """
    found = _found(text, pattern)
    return int(found) if found in ("1", "2") else None


def parse_rating(text: str, *, scale: int, pattern: re.Pattern[str] | None = None) -> int | None:
    """The rating, 1 to `scale`; None where the text does not say it once and plainly.

    >>> parse_rating("<answer>4</answer>", scale=5), parse_rating("<answer>7</answer>", scale=5)
    (4, None)
    """
    found = _found(text, pattern)
    rating = int(found) if found is not None and re.fullmatch(r"[0-9]{1,3}", found) else 0
    return rating if 1 <= rating <= scale else None


def compiled_pattern(text: str) -> re.Pattern[str]:
    """A user's regular expression for a verdict, such as a benchmark's `Answer ([12]) is better`.

    Raises:
        ValueError: it is none, or has not one group.
    """
    try:
        pattern = re.compile(text, re.DOTALL)
    except re.error as error:
        raise ValueError(f"pattern '{text}' is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(f"pattern '{text}' has {pattern.groups} groups; one is needed, around the number")
    return pattern


def _found(text: str, pattern: re.Pattern[str] | None) -> str | None:
    """What the only match holds; several that agree are one."""
    rest = text.rpartition(THOUGHT)[2]
    if THINKING in rest:
        return None  # cut in the midst of its reasoning
    matches = _tagged(rest) if pattern is None else pattern.findall(rest) if len(rest) <= MOST_LETTERS else []
    said = {each.strip() for each in matches}
    return said.pop() if len(said) == 1 else None


def _tagged(text: str) -> list[str]:
    """The texts between `<answer>` and `</answer>`; none where the two do not take turns.

    A tag that is left over means that another answer was begun, which might have been another. The time is linear in
    the length of the text, unlike that of a search for pairs of tags.

    >>> _tagged("<answer>1</answer>, I say: <answer> 1 </answer>"), _tagged("<answer>1</answer> or <answer>2")
    (['1', ' 1 '], [])
    """
    tags = TAG.findall(text)  # texts and no matches: hundreds of thousands of these keep the garbage collector busy
    if tags != ["<answer>", "</answer>"] * (len(tags) // 2):
        return []
    return TAG.split(text)[1::2]
