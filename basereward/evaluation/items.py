"""Items of a benchmark, and the outcomes of a model on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Literal, TypeAlias

ItemKind: TypeAlias = Literal["scores", "correct", "verdicts"]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a benchmark: responses to a prompt, some of which are right and some wrong.

    `prompt` and `images` are cells as `basereward/data/schema/rows.py` reads them, or what it makes of them: a tuple of
    turns, and the places of the images. The images are not opened.
    """

    row: int
    """position in the benchmark, from 0"""
    id: str
    prompt: Any
    responses: tuple[str, ...]
    right: tuple[int, ...]
    """indices of the right responses"""
    wrong: tuple[int, ...]
    prompt_id: str
    """shared by the items of one prompt, which are not independent"""
    labels: Mapping[str, str] = field(default_factory=dict)
    """what protocols make categories of"""
    images: tuple[Any, ...] = ()
    prompt_items: int = 0
    """the number of rows of the benchmark that share the prompt; 0: unknown"""
    any_right: bool = False
    """whether one right response above all wrong ones is enough, as for best-of-N; otherwise all right ones must be"""
    ties: bool = False
    """whether "equally good" is a possible label, and so a possible verdict"""
    videos: tuple[str, ...] = ()
    """paths of the videos of the prompt: files, or folders of frames"""
    response_images: tuple[tuple[Any, ...], ...] = ()
    """the images of every response, in the order of the marks `<image>` in its text; none if no response has any. Where
    the prompt is turns, each is a `PlacedImage`, and the texts have no marks"""
    question: str | None = None
    """the prompt without what the protocol adds to it; None: nothing is added"""

    @property
    def shown_responses(self) -> list[str]:
        """The responses as text: `<image>` stands for each image of a response that has no text.

        >>> Item(0, "a", "Draw.", ("", ""), (0,), (1,), "a", response_images=(("a.png",), ("b.png",))).shown_responses
        ['<image>', '<image>']
        """
        if not self.response_images:
            return list(self.responses)
        pairs = zip(self.responses, self.response_images, strict=True)
        return [text or "<image>" * len(images) for text, images in pairs]

    @property
    def is_pair(self) -> bool:
        """Whether there is one right and one wrong response.

        >>> Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a").is_pair
        True
        """
        return len(self.right) == len(self.wrong) == 1

    @property
    def is_tie(self) -> bool:
        """Whether the responses are labelled as equally good, so that none of them is right or wrong.

        >>> Item(0, "a", "2 + 2?", ("4", "four"), (), (), "a", ties=True).is_tie
        True
        """
        return self.ties and not self.right

    @property
    def length_difference(self) -> int:
        """Characters of the first right response minus those of the first wrong one."""
        return len(self.responses[self.right[0]]) - len(self.responses[self.wrong[0]])


@dataclass(frozen=True, slots=True)
class Outcome:
    """The output of a model for an item: exactly one of the three fields is given."""

    scores: tuple[float, ...] | None = None
    """one per response"""
    correct: bool | None = None
    votes: tuple[int | None, ...] | None = None
    """the index of the response that each vote chose; the number of responses for "equally good"; None: the vote cannot
    be read"""

    @property
    def kind(self) -> ItemKind:
        """Which of the fields is given.

        >>> Outcome(votes=(0, None)).kind
        'verdicts'
        """
        if self.scores is not None:
            return "scores"
        return "verdicts" if self.votes is not None else "correct"


class Decision(Enum):
    """The decision about an item. A tie counts as wrong; an undecided vote counts as the protocol says.

    >>> Decision("tie") is Decision.TIE
    True
    """

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
        """The decision that follows from the outcome.

        Scores are right if every right response (or one, if `any_right`) scores strictly higher than every wrong one;
        for responses that are labelled as equally good, if all scores are equal. Votes are right, or wrong, if more
        than half of all votes say so.

        >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
        >>> [JudgedItem(item, Outcome(scores=scores)).decision.value for scores in ((1.0, 0.0), (1.0, 1.0))]
        ['right', 'tie']
        >>> JudgedItem(Item(0, "a", "2 + 2?", ("4", "four"), (), (), "a", ties=True), Outcome(votes=(2,))).is_right
        True
        """
        if self.outcome.correct is not None:
            return Decision.RIGHT if self.outcome.correct else Decision.WRONG
        if self.outcome.votes is not None:
            return self._majority(self.outcome.votes)
        if self.item.is_tie:
            return Decision.RIGHT if len(set(self.outcome.scores or ())) == 1 else Decision.WRONG
        margin = self.margin
        assert margin is not None
        if margin == 0:
            return Decision.TIE
        # A margin that is not a number is no win.
        return Decision.RIGHT if margin > 0 else Decision.WRONG

    @property
    def margin(self) -> float | None:
        """The score of the worst right response (of the best one, if `any_right`) minus that of the best wrong one.

        None without scores, and for responses that are labelled as equally good.
        """
        scores = self.outcome.scores
        if scores is None or self.item.is_tie:
            return None
        right = [scores[index] for index in self.item.right]
        counted = max(right) if self.item.any_right else min(right)
        return counted - max(scores[index] for index in self.item.wrong)

    @property
    def is_right(self) -> bool:
        """Whether the decision is right."""
        return self.decision is Decision.RIGHT

    def _majority(self, votes: Sequence[int | None]) -> Decision:
        # Of all votes, including those that chose none: two of five are no majority.
        half = len(votes) / 2
        right = (len(self.item.responses),) if self.item.is_tie else self.item.right
        if sum(vote in right for vote in votes) > half:
            return Decision.RIGHT
        if sum(vote is not None and vote not in right for vote in votes) > half:
            return Decision.WRONG
        return Decision.UNDECIDED


def by_label(judged: Sequence[JudgedItem], label: str) -> dict[str, list[JudgedItem]]:
    """Group judged items by the value of a label, in order of first appearance.

    Args:
        judged: items that all have the label.
        label: its name, such as `category`.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a", labels={"category": "math"})
    >>> list(by_label([JudgedItem(item, Outcome(correct=True))], "category"))
    ['math']
    """
    groups: dict[str, list[JudgedItem]] = {}
    for judged_item in judged:
        groups.setdefault(judged_item.item.labels[label], []).append(judged_item)
    return groups


def by_prompt(judged: Sequence[JudgedItem]) -> dict[str, list[JudgedItem]]:
    """Group judged items by `prompt_id`, in order of first appearance.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> len(by_prompt([JudgedItem(item, Outcome(correct=True))])["a"])
    1
    """
    groups: dict[str, list[JudgedItem]] = {}
    for judged_item in judged:
        groups.setdefault(judged_item.item.prompt_id, []).append(judged_item)
    return groups
