"""What a benchmark asks, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Literal, TypeAlias

ItemKind: TypeAlias = Literal["scores", "correct", "verdicts"]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a benchmark: responses to a prompt, of which some are right and the others wrong.

    `prompt` and `images` are cells as `basereward/data/schema/rows.py` reads them, or what it makes of them: a tuple of
    turns, and where the pictures are. They are not opened.
    """

    row: int  # place in the benchmark, from 0
    id: str
    prompt: Any
    responses: tuple[str, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    prompt_id: str  # items of one prompt share it: they are not independent
    labels: Mapping[str, str] = field(default_factory=dict)  # what protocols make categories of
    images: tuple[Any, ...] = ()
    prompt_items: int = 0  # rows of the benchmark that share the prompt; 0: not told

    @property
    def is_pair(self) -> bool:
        return len(self.right) == len(self.wrong) == 1

    @property
    def length_difference(self) -> int:
        """Characters that the first right answer has more than the first wrong one."""
        return len(self.responses[self.right[0]]) - len(self.responses[self.wrong[0]])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model said of an item: one of the three.

    `votes` holds the index of the response that each vote chose, None where a vote chose none.
    """

    scores: tuple[float, ...] | None = None
    correct: bool | None = None
    votes: tuple[int | None, ...] | None = None

    @property
    def kind(self) -> ItemKind:
        if self.scores is not None:
            return "scores"
        return "verdicts" if self.votes is not None else "correct"


class Decision(Enum):
    """A tie is wrong; an undecided vote is wrong or left out, as the protocol says."""

    RIGHT = "right"
    WRONG = "wrong"
    TIE = "tie"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class JudgedItem:
    """An item with its outcome."""

    item: Item
    outcome: Outcome

    @cached_property
    def decision(self) -> Decision:
        """By scores: right iff every right response scores higher than every wrong one, strictly. By votes: right or
        wrong iff more than half of all votes say so."""
        outcome, item = self.outcome, self.item
        if outcome.correct is not None:
            return Decision.RIGHT if outcome.correct else Decision.WRONG
        if outcome.votes is not None:
            agree = sum(vote in item.right for vote in outcome.votes)
            reject = sum(vote in item.wrong for vote in outcome.votes)
            half = len(outcome.votes) / 2
            return Decision.RIGHT if agree > half else Decision.WRONG if reject > half else Decision.UNDECIDED
        margin = self.margin
        assert margin is not None
        return Decision.RIGHT if margin > 0 else Decision.TIE if margin == 0 else Decision.WRONG

    @property
    def margin(self) -> float | None:
        """Score of the worst right response less that of the best wrong one; None without scores."""
        scores = self.outcome.scores
        if scores is None:
            return None
        return min(scores[index] for index in self.item.right) - max(scores[index] for index in self.item.wrong)

    @property
    def is_right(self) -> bool:
        return self.decision is Decision.RIGHT


def by_label(judged: Sequence[JudgedItem], label: str) -> dict[str, list[JudgedItem]]:
    """The judged items of every value of a label, in the order of their first appearance."""
    found: dict[str, list[JudgedItem]] = {}
    for each in judged:
        found.setdefault(each.item.labels[label], []).append(each)
    return found


def by_prompt(judged: Sequence[JudgedItem]) -> dict[str, list[JudgedItem]]:
    """The judged items of every prompt."""
    found: dict[str, list[JudgedItem]] = {}
    for each in judged:
        found.setdefault(each.item.prompt_id, []).append(each)
    return found
