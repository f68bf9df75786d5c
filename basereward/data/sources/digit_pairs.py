"""Prompts with two images of digits, to test prompts with several images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from annotated_types import Interval

from basereward.data.schema.group import IMAGE, Group, Part, RejectedRow, Split, Turn
from basereward.data.sources import LazyGroups
from basereward.data.sources.digits import draw, make_annotations, prefer_true, split_scans, true_digit
from basereward.errors import DataError

# Question -> whether the larger digit is the answer.
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
    """Two different scanned digits and a question: which one is larger or smaller, or what the first or second one is.

    One response is right and one is wrong; the wrong one names the other image or its digit. Each image is in one split
    only, the same as in `Digits` with the same `seed`.

    Args:
        name: the name of the source.
        size, val_size, test_size: the number of groups of each split.
        side: width and height of the images, in pixels.
        seed: determines the splits, the questions and the answers.

    Raises:
        DataError: an argument is out of range.

    >>> group = DigitPairs("pairs").groups("val")[0]
    >>> len(group.images), len(group.responses), len(group.preferences)
    (2, 2, 1)
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
                f"source '{name}': sizes {size}, {val_size}, {test_size} must be at least 0 and side={side} at least 8"
            )
        self.name = name
        self.sizes: dict[Split, int] = {"train": size, "val": val_size, "test": test_size}
        self.side = side
        self.seed = seed
        # The default sizes of `Digits`, so that in a mixture of both sources each scan is in one split.
        self.scans = split_scans(name, val_size=250, test_size=250, seed=seed)

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the groups of a split; images are drawn when a group is accessed."""
        return LazyGroups(partial(self._group, split), count=self.sizes[split])

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return no rows: every pair gives a group."""
        return []

    def _group(self, split: Split, index: int) -> Group:
        rng = random.Random(f"digit_pairs/{self.seed}/{split}/{index}")
        scans = rng.sample(self.scans[split], 2)
        # Two scans of the same digit have no larger one.
        while true_digit(scans[0]) == true_digit(scans[1]):
            scans = rng.sample(self.scans[split], 2)
        digits = [true_digit(scan) for scan in scans]
        question, responses = _question(digits, rng)
        is_true = [True, False]
        # So that the place of a response says nothing about its truth.
        if rng.random() < 0.5:
            responses, is_true = responses[::-1], is_true[::-1]
        return Group(
            id=f"{self.name}/{split}/{index}",
            source=self.name,
            prompt=(Turn("user", (IMAGE, IMAGE, Part(question))),),
            responses=tuple(responses),
            preferences=prefer_true(is_true),
            **make_annotations(f"They show {' and '.join(map(str, digits))}", is_true),
            images=tuple(draw(scan, side=self.side) for scan in scans),
        )


def _question(digits: list[int], rng: random.Random) -> tuple[str, list[str]]:
    """Draw a question about two digits; return it with its right and a wrong answer."""
    if rng.random() < 0.5:
        question, wants_larger = rng.choice(list(COMPARISONS.items()))
        right = int((digits[1] > digits[0]) == wants_larger)
        answers = [rng.choice(PLACE_WORDINGS).format(place=PLACES[place]) for place in (right, 1 - right)]
        return question, answers
    place = rng.randrange(2)
    question = rng.choice(READINGS).format(place=PLACES[place])
    right_and_wrong = (digits[place], digits[1 - place])
    answers = [rng.choice(DIGIT_WORDINGS).format(n=digit, place=PLACES[place]) for digit in right_and_wrong]
    return question, answers
