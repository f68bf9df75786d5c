"""Prompts with two pictures of digits: for tests of several images in one prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from annotated_types import Interval

from basereward.data.schema.group import IMAGE, Group, Part, RejectedRow, Split, Turn
from basereward.data.sources import LazyGroups
from basereward.data.sources.digits import draw, prefer_true, split_pictures, tell, true_digit
from basereward.errors import DataError

# Question -> whether it asks for the larger digit.
COMPARISONS = {
    "Which of the two pictures shows the larger digit?": True,
    "In which picture is the digit larger?": True,
    "Which of the two pictures shows the smaller digit?": False,
    "In which picture is the digit smaller?": False,
}
PLACES = ("first", "second")
READINGS = ("Which digit is in the {place} picture?", "Read the {place} of the two digits.")
PLACE_WORDINGS = ("The {place} one.", "It is the {place} picture.", "In the {place}.")
DIGIT_WORDINGS = ("It is {n}.", "The {place} picture shows {n}.", "{n}")


class DigitPairs:
    """Two scanned digits that differ, and a question: which is larger or smaller, or what the first or second is.

    One response is right and one wrong; the wrong one names the other picture, or the other picture's digit. A part's
    pictures are in no other part, and are those of `Digits` with the same `seed`. `side` is in pixels, sizes in groups.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        name: str,
        *,
        size: Annotated[int, Interval(ge=0, le=10_000_000)] = 2000,
        val_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 200,
        test_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 200,
        side: Annotated[int, Interval(ge=8, le=4096)] = 56,
        seed: int = 0,
    ) -> None:
        if min(size, val_size, test_size) < 0 or side < 8:
            raise DataError(
                f"source '{name}': sizes {size}, {val_size}, {test_size} must be 0 or more and side={side} 8"
            )
        self.name = name
        self.sizes: dict[Split, int] = {"train": size, "val": val_size, "test": test_size}
        self.side = side
        self.seed = seed
        self.pictures = split_pictures(name, val_size=250, test_size=250, seed=seed)

    def groups(self, split: Split) -> Sequence[Group]:
        return LazyGroups(partial(self._group, split), count=self.sizes[split])

    def lost(self, split: Split) -> list[RejectedRow]:
        """None: every pair makes a group."""
        return []

    def _group(self, split: Split, index: int) -> Group:
        rng = random.Random(f"digit_pairs/{self.seed}/{split}/{index}")
        pictures = rng.sample(self.pictures[split], 2)
        while true_digit(pictures[0]) == true_digit(pictures[1]):
            pictures = rng.sample(self.pictures[split], 2)
        question, said = _ask([true_digit(picture) for picture in pictures], rng)
        truth = [True, False]
        if rng.random() < 0.5:
            said, truth = said[::-1], truth[::-1]
        return Group(
            id=f"{self.name}/{split}/{index}",
            source=self.name,
            prompt=(Turn("user", (IMAGE, IMAGE, Part(question))),),
            responses=tuple(said),
            preferences=prefer_true(truth),
            **tell(f"They show {' and '.join(str(true_digit(picture)) for picture in pictures)}", truth),
            images=tuple(draw(picture, side=self.side) for picture in pictures),
        )


def _ask(digits: list[int], rng: random.Random) -> tuple[str, list[str]]:
    """A question of the two digits, its right answer and a wrong one."""
    if rng.random() < 0.5:
        question, wants_larger = rng.choice(list(COMPARISONS.items()))
        right = int((digits[1] > digits[0]) == wants_larger)
        return question, [rng.choice(PLACE_WORDINGS).format(place=PLACES[place]) for place in (right, 1 - right)]
    place = rng.randrange(2)
    question = rng.choice(READINGS).format(place=PLACES[place])
    return question, [
        rng.choice(DIGIT_WORDINGS).format(n=digit, place=PLACES[place]) for digit in (digits[place], digits[1 - place])
    ]
