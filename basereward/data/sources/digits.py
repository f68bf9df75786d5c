"""The embedded image data: scanned handwritten digits, each with several true and false answers."""

from __future__ import annotations

import itertools
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

NUM_SCANS = 1797
QUESTIONS = (
    "Which digit is this?",
    "What digit do you see?",
    "Which digit was written?",
    "Read the digit.",
    "What does the picture show?",
)
# True and false answers use the same wordings, each at most once per group, so that a wording says nothing about truth.
WORDINGS = (
    "This is {a} {number}.",
    "The digit is {number}.",
    "It is {a} {number}.",
    "I see {a} {number}.",
    "I read {number}.",
    "{a} {number}.",
    "{number}",
)
PLAIN = "{number}"


class Digits:
    """Scikit-learn's 1,797 scanned digits as images, each with right and wrong answers to a question about it.

    Every right answer is preferred to every wrong one. Each image is in one split only.

    Args:
        name: the name of the source.
        answers: the number of responses of a group.
        true_answers: the number of right ones among them.
        side: width and height of the images, in pixels.
        size: the number of images to train on; null: all that are not held out.
        val_size, test_size: the number of images of the val and test splits.
        copies: how often each training image is used, each time with another question and other answers.
        plain: whether an answer is the digit alone, which an exact match can check. It needs true_answers=1.
        graded: whether to rank all answers by their distance from the digit. Answers with equal distances tie, and
            margins are the difference of the distances divided by 9, the largest possible one.
        seed: determines the splits, the questions and the answers.

    Raises:
        DataError: an argument is out of range.

    >>> source = Digits("digits", answers=3, true_answers=1)
    >>> [len(source.groups(split)) for split in ("train", "val", "test")]
    [1297, 250, 250]
    >>> len(source.groups("train")[0].preferences)
    2
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
        plain: bool = False,
        graded: bool = False,
        seed: int = 0,
    ) -> None:
        _check_answers(name, answers, true_answers, plain=plain)
        if side < 8 or copies < 1:
            raise DataError(f"source '{name}': side={side} must be at least 8 and copies={copies} at least 1")
        self.name = name
        self.answers = answers
        self.true_answers = true_answers
        self.side = side
        self.copies = copies
        self.plain = plain
        self.graded = graded
        self.seed = seed
        self.scans = split_scans(name, val_size=val_size, test_size=test_size, seed=seed)
        if size is not None and not 0 < size <= len(self.scans["train"]):
            raise DataError(
                f"source '{name}': size={size}; allowed are 1 to {len(self.scans['train'])} images for training"
            )
        self.scans["train"] = self.scans["train"][:size]

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the groups of a split; images are drawn when a group is accessed."""
        # Copies of held-out images would only repeat the measurement.
        copies = self.copies if split == "train" else 1
        return LazyGroups(partial(self._group, split), count=len(self.scans[split]) * copies)

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return no rows: every image gives a group."""
        return []

    def _group(self, split: Split, index: int) -> Group:
        copy, place = divmod(index, len(self.scans[split]))
        scan = self.scans[split][place]
        # Seeded by the scan, so that it has the same question and answers whatever the sizes of the splits.
        rng = random.Random(f"digits/{self.seed}/{scan}/{copy}")
        digit = true_digit(scan)
        others = rng.sample([d for d in range(10) if d != digit], self.answers - self.true_answers)
        answered = [digit] * self.true_answers + others
        rng.shuffle(answered)
        wordings = rng.sample(WORDINGS, self.answers)
        if self.plain:
            wordings = [PLAIN] * self.answers
        question = rng.choice(QUESTIONS)
        is_true = [d == digit for d in answered]
        return Group(
            id=f"{self.name}/{scan}" + (f"/{copy}" if copy else ""),
            source=self.name,
            prompt=(Turn("user", (IMAGE, Part(question))),),
            responses=tuple(word_digit(d, wording) for d, wording in zip(answered, wordings, strict=True)),
            preferences=grade([abs(d - digit) for d in answered]) if self.graded else prefer_true(is_true),
            images=(draw(scan, side=self.side),),
            **make_annotations(f"It shows {digit}", is_true),
        )


def _check_answers(name: str, answers: int, true_answers: int, *, plain: bool) -> None:
    """
    Raises:
        DataError: so many true and false answers cannot be worded.
    """
    if not 1 <= true_answers < answers <= len(WORDINGS):
        raise DataError(
            f"source '{name}': answers={answers} and true_answers={true_answers} do not fit: at least one answer must "
            f"be true and one false, and at most {len(WORDINGS)} answers have different wordings"
        )
    if plain and true_answers > 1:
        raise DataError(
            f"source '{name}': with plain=true a right answer is written in one way, and true_answers={true_answers} "
            "are asked for. Set true_answers=1"
        )


def make_annotations(fact: str, is_true: Sequence[bool]) -> dict[str, Any]:
    """Make critiques, ratings and reasonings for true and false answers.

    Every pair of a true and a false answer gets a reasoning, in both orders.

    >>> fields = make_annotations("It shows 7", [True, False])
    >>> fields["critiques"], fields["ratings"], fields["reasonings"][1].text
    (('It shows 7: right.', 'It shows 7: wrong.'), (1.0, 0.0), 'It shows 7: 1 is wrong, 2 is right.')
    """
    words = ["right" if true else "wrong" for true in is_true]
    reasonings = []
    for preference in prefer_true(is_true):
        for i, j in ((preference.winner, preference.loser), (preference.loser, preference.winner)):
            reasonings.append(Reasoning(i, j, f"{fact}: 1 is {words[i]}, 2 is {words[j]}."))
    return {
        "critiques": tuple(f"{fact}: {word}." for word in words),
        "ratings": tuple(map(float, is_true)),
        "reasonings": tuple(reasonings),
    }


def split_scans(name: str, *, val_size: int, test_size: int, seed: int) -> dict[Split, tuple[int, ...]]:
    """Assign the scans to the splits by a random permutation.

    Returns:
        The indices of the scans of each split.

    Raises:
        DataError: no scan would be left for training, or a size is negative.

    >>> scans = split_scans("digits", val_size=250, test_size=250, seed=0)
    >>> {split: len(indices) for split, indices in scans.items()}
    {'train': 1297, 'val': 250, 'test': 250}
    """
    if min(val_size, test_size) < 0 or val_size + test_size >= NUM_SCANS:
        raise DataError(
            f"source '{name}': val_size={val_size} and test_size={test_size} must be 0 or more, and together less than "
            f"{NUM_SCANS}, the number of images"
        )
    order = list(range(NUM_SCANS))
    random.Random(f"digits/{seed}").shuffle(order)
    held_out = val_size + test_size
    return {
        "train": tuple(order[held_out:]),
        "val": tuple(order[:val_size]),
        "test": tuple(order[val_size:held_out]),
    }


def prefer_true(is_true: Sequence[bool]) -> tuple[Preference, ...]:
    """Prefer every true response to every false one.

    >>> [(p.winner, p.loser) for p in prefer_true([False, True, True])]
    [(1, 0), (2, 0)]
    """
    true = [i for i, value in enumerate(is_true) if value]
    false = [i for i, value in enumerate(is_true) if not value]
    return tuple(itertools.starmap(Preference, itertools.product(true, false)))


def grade(distances: Sequence[int]) -> tuple[Preference, ...]:
    """Prefer responses that are closer to the truth, with margins; equal distances are ties.

    >>> [(p.winner, p.loser, p.tie, p.margin) for p in grade([3, 0, 3])]
    [(1, 0, False, 0.3333333333333333), (0, 2, True, None), (1, 2, False, 0.3333333333333333)]
    """
    preferences = []
    for second in range(len(distances)):
        for first in range(second):
            near, far = sorted((first, second), key=lambda index: distances[index])
            # The largest possible distance of two digits is 9, so margins are from 0 to 1.
            gap = distances[far] - distances[near]
            preferences.append(Preference(near, far, margin=gap / 9 if gap else None, tie=not gap))
    return tuple(preferences)


def word_digit(digit: int, wording: str) -> str:
    """Fill a digit into a wording.

    >>> word_digit(8, "This is {a} {number}.")
    'This is an 8.'
    """
    return wording.format(a="an" if digit == 8 else "a", number=digit)


def draw(scan: int, *, side: int) -> PIL.Image.Image:
    """Convert a scan to an RGB image of `side` x `side` pixels, white on black.

    Args:
        scan: the index of the scan.
        side: width and height, in pixels.

    >>> image = draw(0, side=56)
    >>> image.size, image.mode
    ((56, 56), 'RGB')
    """
    pixels = _scans()[0][scan]
    # The 8 x 8 scans have 17 shades, 0 to 16.
    grey = PIL.Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
    return grey.resize((side, side), PIL.Image.Resampling.BICUBIC).convert("RGB")


def true_digit(scan: int) -> int:
    """Return the digit that a scan shows, 0 to 9.

    >>> [true_digit(scan) for scan in range(5)]
    [0, 1, 2, 3, 4]
    """
    return int(_scans()[1][scan])


@cache
def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # Imported only when an image is drawn, because the import takes a second.
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target
