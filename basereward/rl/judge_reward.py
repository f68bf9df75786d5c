"""The reward of a judge's text: its format, its verdict, and whether the verdict follows from the reasoning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from basereward.errors import DataError
from basereward.model.generation.verdicts import parse_verdict

Consistency: TypeAlias = Literal[-1, 0, 1]
Label: TypeAlias = Literal[1, 2]

FORMAT = re.compile(r"^<think>.*?</think><answer>.*?</answer>$", re.DOTALL)
REWARD_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class RewardParts:
    """What a judge's text earns.

    Attributes:
        formatted: F, the text has the form `<think>...</think><answer>...</answer>`.
        right: A, its verdict is the label.
        consistency: C, 1 if the verdict follows from the reasoning, -1 if it does not, 0 if that is not known.

    >>> RewardParts(formatted=True, right=True, consistency=1).reward
    2.0
    """

    formatted: bool
    right: bool
    consistency: Consistency = 0

    @property
    def reward(self) -> float:
        """R = 0.5 F + A (1 + 0.5 C), between -10 and 10."""
        reward = 0.5 * self.formatted + self.right * (1 + 0.5 * self.consistency)
        return max(-REWARD_LIMIT, min(REWARD_LIMIT, reward))


def is_formatted(text: str) -> bool:
    """Whether a text is reasoning and a verdict in their tags, with each opening tag once and nothing around them.

    >>> is_formatted("<think>1 is false.</think><answer>2</answer>"), is_formatted("<answer>2</answer>")
    (True, False)
    """
    # The counts come first: with one place where the verdict can begin, the time of the search is linear.
    return text.count("<think>") == text.count("<answer>") == 1 and FORMAT.search(text) is not None


def judged(text: str, label: Label, consistency: Consistency = 0) -> RewardParts:
    """The parts of the reward of a judge's text.

    Args:
        text: what the judge wrote.
        label: the number of the better answer.
        consistency: of the verdict with the reasoning; it counts only if the verdict is right.

    >>> judged("<think>1 is false.</think><answer>2</answer>", 2).reward
    1.5
    """
    return RewardParts(is_formatted(text), parse_verdict(text) == label, consistency)


def checked_label(label: Any, *, where: str) -> Label:
    """The label of a comparison.

    Args:
        label: 1 or 2.
        where: for the message, such as the id of the row.

    Raises:
        DataError: it is anything else.

    >>> checked_label(2, where="row 7")
    2
    """
    # True == 1, and a column of booleans means something else.
    if isinstance(label, bool) or label not in (1, 2):
        raise DataError(
            f"{where}: the label is {label!r}; allowed: 1 if the first answer is better, 2 if the second is. Drop "
            "ties, and count answers from 1"
        )
    return 1 if label == 1 else 2
