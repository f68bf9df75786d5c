"""Checks that the words after the options are changes `KEY=VALUE`, and finds those that a shell has split."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from basereward.cli.command import UsageError

BRACKETS = {"[": "]", "{": "}"}


def check_overrides(words: Sequence[str]) -> None:
    """Checks the form of every change; keys and values are checked with the recipe.

    Args:
        words: as the shell gave them.

    Raises:
        UsageError: a word is no change; the message has the one that was probably meant.

    >>> check_overrides(["optimizer.lr=1e-4", "seeds=[0, 1]"])
    >>> check_overrides(["seeds=[0,", "1]"])
    Traceback (most recent call last):
    basereward.cli.command.UsageError: the shell has split 'seeds=[0,' at a blank. Put quotes around ...: 'seeds=[0, 1]'
    """
    for number, word in enumerate(words):
        if "=" in word and (whole := _whole(words[number:])) is not None:
            raise UsageError(
                f"the shell has split '{word}' at a blank. Put quotes around the whole change: {shlex.quote(whole)}"
            )
        if (spaced := _without_spaces(words, number)) is not None:
            raise UsageError(f"a change is written without spaces around '=': {spaced}; '{word}' given")
        if "=" not in word:
            raise UsageError(
                f"unexpected argument '{word}'; a change is KEY=VALUE, as in {word}=VALUE or optimizer.lr=1e-4, and a "
                "profile is --profile NAME"
            )


def _whole(words: Sequence[str]) -> str | None:
    """The words up to the one that closes the brackets of the first; None when nothing is open in it."""
    if not _open(words[0]):
        return None
    for number in range(1, len(words) + 1):
        text = " ".join(words[:number])
        if not _open(text):
            return text
    # Nothing closes them, so the value itself is wrong, and the recipe's check says how.
    return None


def _open(text: str) -> int:
    """The number of brackets that are opened and not closed."""
    return sum(text.count(left) - text.count(right) for left, right in BRACKETS.items())


def _without_spaces(words: Sequence[str], number: int) -> str | None:
    """The change that was meant where `=` has a space before or after it; None elsewhere."""
    word = words[number]
    after = words[number + 1] if number + 1 < len(words) else ""
    # The key is the first word of such a change, so it is seen before its `=` and its value.
    if "=" not in word and after == "=":
        return f"{word}={words[number + 2] if number + 2 < len(words) else 'VALUE'}"
    if "=" not in word and after.startswith("="):
        return word + after
    if word.endswith("=") and after and "=" not in after:
        return word + after
    return None
