"""Text-only questions of size, "Which is larger, 47 or 52?": the embedded text data."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Annotated, NamedTuple

from annotated_types import Interval

from basereward.data.schema.group import SPLITS, Group, Part, RejectedRow, Split, Turn
from basereward.data.sources import LazyGroups
from basereward.data.sources.digits import prefer_true, tell
from basereward.errors import DataError

HELD_OUT = 0.1  # share of all sets of numbers that belongs to each of val and test
TRIES = 1000  # draws in a row that give nothing new before the source is said to be exhausted

# `{is}` is larger or smaller of two numbers, largest or smallest of more. True and false answers are worded alike.
QUESTIONS = (
    "Which is {is}, {list}?",
    "Which number is {is}: {list}?",
    "Tell me which is {is}, {list}.",
    "{list}: which is {is}?",
)
WORDINGS = ("{n}", "It is {n}.", "That is {n}.", "The answer is {n}.")
DEGREES = {True: ("larger", "largest"), False: ("smaller", "smallest")}


class Question(NamedTuple):
    """What one group asks: the numbers in their order, and whether the largest or the smallest is wanted."""

    numbers: tuple[int, ...]
    wants_largest: bool


class Numbers:
    """Questions which of two to four numbers (`lowest` to `below` - 1) is larger or smaller, answered with each.

    The right answer is preferred to each wrong one. A set of numbers belongs to one part only, whatever the order and
    the question; no question comes twice. `size`, `val_size` and `test_size` are the numbers of groups.

    Raises:
        DataError: an argument is out of its range, or there are fewer different questions than were asked for.
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
                f"source '{name}': counts={list(counts)} must be 2, 3 or 4, and no more than there are "
                f"numbers from lowest={lowest} to below={below} - 1"
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
        return LazyGroups(partial(self._group, split), count=len(self._questions[split]))

    def lost(self, split: Split) -> list[RejectedRow]:
        """None: every question makes a group."""
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
            if question not in seen and _part(question.numbers, seed=self.seed) == split:
                seen.add(question)
                tries = 0
                yield question
            elif tries == TRIES:
                raise DataError(
                    f"source '{self.name}': the {split} part has only about {len(seen)} questions of "
                    f"{list(self.counts)} numbers of {self.lowest} to {self.below - 1}, not "
                    f"{self.sizes[split]}; raise `below` or ask for fewer"
                )

    def _group(self, split: Split, index: int) -> Group:
        numbers, wants_largest = question = self._questions[split][index]
        rng = random.Random(f"numbers/{self.seed}/{question}")
        degree = DEGREES[wants_largest][len(numbers) > 2]
        listed = ", ".join(map(str, numbers[:-1])) + f" or {numbers[-1]}"
        text = rng.choice(QUESTIONS).format(**{"is": degree if len(numbers) == 2 else f"the {degree}", "list": listed})
        right = max(numbers) if wants_largest else min(numbers)
        said = rng.sample(numbers, len(numbers))
        return Group(
            id=f"{self.name}/{split}/{index}",
            source=self.name,
            prompt=(Turn("user", (Part(text),)),),
            responses=tuple(rng.choice(WORDINGS).format(n=n) for n in said),
            preferences=prefer_true([n == right for n in said]),
            **tell(f"The {degree} is {right}", [n == right for n in said]),
        )


def _part(numbers: Sequence[int], *, seed: int) -> Split:
    """The part that a set of numbers belongs to, whatever their order."""
    digest = hashlib.sha256(f"{seed}/{sorted(numbers)}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if share < HELD_OUT else "val" if share < 2 * HELD_OUT else "train"
