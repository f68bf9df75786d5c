"""The embedded text data: questions that compare numbers, such as "Which is larger, 47 or 52?"."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Annotated, NamedTuple

from annotated_types import Interval

from basereward.data.schema.group import SPLITS, Group, Part, RejectedRow, Split, Turn
from basereward.data.sources import LazyGroups
from basereward.data.sources.digits import make_annotations, prefer_true
from basereward.errors import DataError

# The fraction of all sets of numbers that belongs to each of val and test.
HELD_OUT = 0.1
# Consecutive draws without a new question after which the source counts as exhausted.
TRIES = 1000

# `{is}` is "larger" or "smaller" for two numbers, and "the largest" or "the smallest" for more. True and false answers
# use the same wordings, so that a wording says nothing about truth.
QUESTIONS = (
    "Which is {is}, {list}?",
    "Which number is {is}: {list}?",
    "Tell me which is {is}, {list}.",
    "{list}: which is {is}?",
)
WORDINGS = ("{n}", "It is {n}.", "That is {n}.", "The answer is {n}.")
DEGREES = {True: ("larger", "largest"), False: ("smaller", "smallest")}


class Question(NamedTuple):
    """A question: the numbers in their order, and whether the largest or the smallest one is the answer.

    >>> Question((47, 52), wants_largest=True).numbers
    (47, 52)
    """

    numbers: tuple[int, ...]
    wants_largest: bool


class Numbers:
    """Questions which of two to four numbers is the largest or smallest; each number is a response.

    The right answer is preferred to each wrong one. A set of numbers is in one split only, in any order and with any
    question, and no question is repeated.

    Args:
        name: the name of the source.
        size, val_size, test_size: the number of groups of each split.
        counts: how many numbers a question has; the questions alternate between these.
        lowest: the smallest possible number.
        below: the largest possible number plus 1.
        seed: determines the splits and the questions.

    Raises:
        DataError: an argument is out of range, or there are fewer different questions than requested.

    >>> group = Numbers("numbers", counts=[3]).groups("train")[0]
    >>> len(group.responses), len(group.preferences)
    (3, 2)
    """

    def __init__(
        self,
        name: str,
        *,
        size: Annotated[int, Interval(ge=0, le=10_000_000)] = 4000,
        val_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 300,
        test_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 300,
        counts: Sequence[int] = (2, 3, 4),
        lowest: Annotated[int, Interval(ge=0, le=1_000_000_000_000)] = 10,
        below: Annotated[int, Interval(ge=0, le=1_000_000_000_000)] = 100,
        seed: int = 0,
    ) -> None:
        if not counts or not 2 <= min(counts) <= max(counts) <= min(4, below - lowest) or lowest < 0:
            raise DataError(
                f"source '{name}': counts={list(counts)} must be 2, 3 or 4, and at most the number of integers from "
                f"lowest={lowest} to below={below} - 1"
            )
        if min(size, val_size, test_size) < 0:
            raise DataError(f"source '{name}': sizes {size}, {val_size}, {test_size} must be 0 or more")
        self.name = name
        self.sizes: dict[Split, int] = {"train": size, "val": val_size, "test": test_size}
        self.counts = tuple(counts)
        self.lowest = lowest
        self.below = below
        self.seed = seed

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the groups of a split; the questions are drawn once, the texts when a group is accessed."""
        return LazyGroups(partial(self._group, split), count=len(self._questions[split]))

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return no rows: every question gives a group."""
        return []

    @cached_property
    def _questions(self) -> dict[Split, list[Question]]:
        return {split: list(self._draw(split)) for split in SPLITS}

    def _draw(self, split: Split) -> Iterator[Question]:
        rng = random.Random(f"numbers/{self.seed}/{split}")
        seen: set[Question] = set()
        tries = 0
        while len(seen) < self.sizes[split]:
            count = self.counts[len(seen) % len(self.counts)]
            question = Question(tuple(rng.sample(range(self.lowest, self.below), count)), rng.random() < 0.5)
            tries += 1
            if question not in seen and _split_of(question.numbers, seed=self.seed) == split:
                seen.add(question)
                tries = 0
                yield question
            elif tries == TRIES:
                raise DataError(
                    f"source '{self.name}': the {split} split has only about {len(seen)} questions of "
                    f"{list(self.counts)} numbers from {self.lowest} to {self.below - 1}, not "
                    f"{self.sizes[split]}; raise `below` or lower the size"
                )

    def _group(self, split: Split, index: int) -> Group:
        numbers, wants_largest = question = self._questions[split][index]
        rng = random.Random(f"numbers/{self.seed}/{question}")
        degree = DEGREES[wants_largest][len(numbers) > 2]
        listed = ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"
        text = rng.choice(QUESTIONS).format(**{"is": degree if len(numbers) == 2 else f"the {degree}", "list": listed})
        right = max(numbers) if wants_largest else min(numbers)
        answered = rng.sample(numbers, len(numbers))
        is_true = [n == right for n in answered]
        return Group(
            id=f"{self.name}/{split}/{index}",
            source=self.name,
            prompt=(Turn("user", (Part(text),)),),
            responses=tuple(rng.choice(WORDINGS).format(n=n) for n in answered),
            preferences=prefer_true(is_true),
            **make_annotations(f"The {degree} is {right}", is_true),
        )


def _split_of(numbers: Sequence[int], *, seed: int) -> Split:
    """Return the split of a set of numbers, independent of their order."""
    digest = hashlib.sha256(f"{seed}/{sorted(numbers)}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < HELD_OUT else "val" if share < 2 * HELD_OUT else "train"
