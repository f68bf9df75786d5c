"""Pairs of digits: two images in one prompt, whose labels determine the right answer."""

from __future__ import annotations

import pickle

from sklearn.datasets import load_digits

from basereward.data.schema.group import SPLITS
from basereward.data.sources.digit_pairs import DigitPairs
from basereward.data.sources.digits import Digits, draw


def test_winner_is_right_and_loser_wrong() -> None:
    """The right answer is derived from scikit-learn's labels of the two images, for every group and every kind of
    question."""
    labels = load_digits().target
    contents = {draw(scan, side=56).tobytes(): scan for scan in range(1797)}
    source = DigitPairs("p", size=300)
    kinds = set()
    for split in SPLITS:
        for group in source.groups(split):
            assert [part.is_visual for part in group.prompt[0].parts] == [True, True, False]
            first_digit, second_digit = (int(labels[contents[image.tobytes()]]) for image in group.images)  # type: ignore[union-attr]
            assert first_digit != second_digit
            question = group.prompt[0].parts[2].text or ""
            [preference] = group.preferences
            winner, loser = group.responses[preference.winner], group.responses[preference.loser]
            position = "first" if "first" in question else "second"
            if "larger" in question or "smaller" in question:
                kinds.add("compare")
                first_is_right = (first_digit > second_digit) == ("larger" in question)
                assert ("first" in winner, "second" in winner) == (first_is_right, not first_is_right)
                assert ("first" in loser, "second" in loser) == (not first_is_right, first_is_right)
            else:
                kinds.add(position)
                right, wrong = (first_digit, second_digit) if position == "first" else (second_digit, first_digit)
                assert str(right) in winner
                assert str(wrong) in loser
    assert kinds == {"compare", "first", "second"}


def test_splits_are_subsets_of_those_of_digits() -> None:
    """A model trained on both sources has seen no test image of either source."""
    pairs = {split: {i.tobytes() for g in DigitPairs("p").groups(split) for i in g.images} for split in SPLITS}  # type: ignore[union-attr]
    single = {split: {g.images[0].tobytes() for g in Digits("d").groups(split)} for split in SPLITS}  # type: ignore[union-attr]
    for split in SPLITS:
        assert pairs[split] <= single[split]


def test_right_response_is_first_in_half_of_the_groups() -> None:
    """Within four standard deviations of 1,000 of 2,000; pickled groups are equal."""
    groups = DigitPairs("p").groups("train")
    assert abs(sum(group.preferences[0].winner == 0 for group in groups) - 1000) < 90
    assert pickle.loads(pickle.dumps(groups))[11] == groups[11]  # noqa: S301
