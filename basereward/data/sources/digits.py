"""The embedded picture data: scanned handwritten digits, each with several true and false answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import PIL.Image
from annotated_types import Interval

from basereward.data.schema.group import IMAGE, Group, Part, Preference, Reasoning, RejectedRow, Split, Turn
from basereward.data.sources import LazyGroups
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_PICTURES = 1797
QUESTIONS = (
    "Which digit is this?",
    "What digit do you see?",
    "Which digit was written?",
    "Read the digit.",
    "What does the picture show?",
)
# True and false answers draw from the same wordings, each at most once a group, so that a wording says nothing about
# truth.
WORDINGS = (
    "This is {a} {number}.",
    "The digit is {number}.",
    "It is {a} {number}.",
    "I see {a} {number}.",
    "I read {number}.",
    "{a} {number}.",
    "{number}",
)


class Digits:
    """Scikit-learn's 1,797 scanned digits as pictures, each with `answers` responses: `true_answers` right ones.

    Every right response is preferred to every wrong one; with `graded` all are ranked by how far they are from the
    digit, those as far tie, and margins are the ninths by which one is farther than the other. The parts hold different
    pictures, drawn by `seed`. In training a picture comes `copies` times, each time with another question and other
    answers. Pictures are `side` pixels wide and high.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        name: str,
        *,
        answers: Annotated[int, Interval(ge=1, le=10)] = 5,
        true_answers: Annotated[int, Interval(ge=1, le=10)] = 2,
        side: Annotated[int, Interval(ge=8, le=4096)] = 56,
        size: Annotated[int, Interval(ge=0, le=10_000_000)] | None = None,
        val_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 250,
        test_size: Annotated[int, Interval(ge=0, le=10_000_000)] = 250,
        copies: Annotated[int, Interval(ge=1, le=10_000)] = 1,
        graded: bool = False,
        seed: int = 0,
    ) -> None:
        if not 1 <= true_answers < answers <= len(WORDINGS):
            raise DataError(
                f"source '{name}': answers={answers} and true_answers={true_answers} do not fit: at least one must "
                f"be true and one false, and there are {len(WORDINGS)} wordings, each used once a group"
            )
        if side < 8 or copies < 1:
            raise DataError(f"source '{name}': side={side} must be at least 8 and copies={copies} at least 1")
        self.name = name
        self.answers = answers
        self.true_answers = true_answers
        self.side = side
        self.copies = copies
        self.graded = graded
        self.seed = seed
        self.pictures = split_pictures(name, val_size=val_size, test_size=test_size, seed=seed)
        if size is not None and not 0 < size <= len(self.pictures["train"]):
            raise DataError(
                f"source '{name}': size={size}; there are 1 to {len(self.pictures['train'])} pictures for training"
            )
        self.pictures["train"] = self.pictures["train"][:size]

    def groups(self, split: Split) -> Sequence[Group]:
        copies = self.copies if split == "train" else 1
        return LazyGroups(partial(self._group, split), count=len(self.pictures[split]) * copies)

    def lost(self, split: Split) -> list[RejectedRow]:
        """None: every picture makes a group."""
        return []

    def _group(self, split: Split, index: int) -> Group:
        copy, place = divmod(index, len(self.pictures[split]))
        picture = self.pictures[split][place]
        rng = random.Random(f"digits/{self.seed}/{picture}/{copy}")
        digit = true_digit(picture)
        others = rng.sample([d for d in range(10) if d != digit], self.answers - self.true_answers)
        said = [digit] * self.true_answers + others
        rng.shuffle(said)
        wordings = rng.sample(WORDINGS, self.answers)
        question = rng.choice(QUESTIONS)
        truth = [d == digit for d in said]
        return Group(
            id=f"{self.name}/{picture}" + (f"/{copy}" if copy else ""),
            source=self.name,
            prompt=(Turn("user", (IMAGE, Part(question))),),
            responses=tuple(word_digit(d, wording) for d, wording in zip(said, wordings, strict=True)),
            preferences=grade([abs(d - digit) for d in said]) if self.graded else prefer_true(truth),
            images=(draw(picture, side=self.side),),
            **tell(f"It shows {digit}", truth),
        )


def tell(fact: str, truth: Sequence[bool]) -> dict[str, Any]:
    """What there is to say of true and false answers: critiques, ratings, and reasoning on every pair of a true and a
    false one, in both orders.

    >>> told = tell("It shows 7", [True, False])
    >>> told["critiques"], told["ratings"], told["reasonings"][1].text
    (('It shows 7: right.', 'It shows 7: wrong.'), (1.0, 0.0), 'It shows 7: 1 is wrong, 2 is right.')
    """
    words = [("wrong", "right")[each] for each in truth]
    pairs = [pair for p in prefer_true(truth) for pair in ((p.winner, p.loser), (p.loser, p.winner))]
    return {
        "critiques": tuple(f"{fact}: {word}." for word in words),
        "ratings": tuple(float(each) for each in truth),
        "reasonings": tuple(Reasoning(i, j, f"{fact}: 1 is {words[i]}, 2 is {words[j]}.") for i, j in pairs),
    }


def split_pictures(name: str, *, val_size: int, test_size: int, seed: int) -> dict[Split, tuple[int, ...]]:
    """Which pictures each part holds, by a permutation that `seed` fixes.

    Raises:
        DataError: nothing would be left for training, or a size is below zero.
    """
    if min(val_size, test_size) < 0 or val_size + test_size >= NUM_PICTURES:
        raise DataError(
            f"source '{name}': val_size={val_size} and test_size={test_size} must be 0 or more, and together less than "
            f"the {NUM_PICTURES} pictures that there are"
        )
    order = list(range(NUM_PICTURES))
    random.Random(f"digits/{seed}").shuffle(order)
    held_out = val_size + test_size
    return {
        "train": tuple(order[held_out:]),
        "val": tuple(order[:val_size]),
        "test": tuple(order[val_size:held_out]),
    }


def prefer_true(truth: Sequence[bool]) -> tuple[Preference, ...]:
    """Every true response before every false one.

    >>> [(p.winner, p.loser) for p in prefer_true([False, True, True])]
    [(1, 0), (2, 0)]
    """
    return tuple(Preference(i, j) for i in range(len(truth)) if truth[i] for j in range(len(truth)) if not truth[j])


def grade(distances: Sequence[int]) -> tuple[Preference, ...]:
    """Every response before those that are farther from the truth, with ties and margins.

    >>> [(p.winner, p.loser, p.tie, p.margin) for p in grade([3, 0, 3])]
    [(1, 0, False, 0.3333333333333333), (0, 2, True, None), (1, 2, False, 0.3333333333333333)]
    """
    found = []
    for later in range(len(distances)):
        for one in range(later):
            near, far = sorted((one, later), key=lambda place: distances[place])
            more = distances[far] - distances[near]
            found.append(Preference(near, far, margin=more / 9 if more else None, tie=not more))
    return tuple(found)


def word_digit(digit: int, wording: str) -> str:
    """A wording filled in.

    >>> word_digit(8, "This is {a} {number}.")
    'This is an 8.'
    """
    return wording.format(a="an" if digit == 8 else "a", number=digit)


def draw(picture: int, *, side: int) -> PIL.Image.Image:
    """The scan as an RGB picture of side x side pixels, white on black."""
    scan = _scans()[0][picture]
    grey = PIL.Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))  # the 8 x 8 scans have 17 shades, 0 to 16
    return grey.resize((side, side), PIL.Image.Resampling.BICUBIC).convert("RGB")


def true_digit(picture: int) -> int:
    """What the scan shows, 0 to 9."""
    return int(_scans()[1][picture])


@cache
def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # a second to import; only when a picture is drawn

    data = load_digits()
    return data.images, data.target
