"""The source with wrong labels and copies, whose truth is known."""

from __future__ import annotations

import pytest

from basereward.data.curation.duplicates import find_duplicates
from basereward.data.schema.group import Split
from basereward.data.sources.digits import Digits
from basereward.data.sources.noisy import Noisy

DIGITS = {"_target_": "digits", "answers": 3, "true_answers": 1, "val_size": 400, "test_size": 100}


def noisy(**arguments: float | int) -> Noisy:
    """The source over digits."""
    return Noisy("noisy", source=DIGITS, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "val"])
def test_wrong_groups_have_all_preferences_turned_round(split: Split) -> None:
    """A fifth of the groups (within four standard deviations of a binomial draw), and no other group is changed."""
    source = noisy(flipped=0.2)
    right = Digits("noisy", **{key: value for key, value in DIGITS.items() if key != "_target_"}).groups(split)  # type: ignore[arg-type]
    wrong = 0
    for before, after in zip(right, source.groups(split), strict=True):
        pairs = [(one.winner, one.loser) for one in after.preferences]
        is_wrong = source.is_wrong(after.id)
        assert pairs == [(one.winner, one.loser)[:: -1 if is_wrong else 1] for one in before.preferences]
        assert bool(after.ratings) != is_wrong
        wrong += is_wrong
    number = len(right)
    assert abs(wrong - 0.2 * number) < 4 * (number * 0.2 * 0.8) ** 0.5


def test_the_test_split_is_right() -> None:
    """Its groups are those of the source, also if all others are wrong."""
    groups = noisy(flipped=1.0).groups("test")
    assert len(groups) == 100
    assert all(group.ratings[one.winner] > group.ratings[one.loser] for group in groups for one in group.preferences)


def test_copies_are_found_as_duplicates_and_have_the_labels_of_their_groups() -> None:
    """30 % of 1,297 training groups; each copy is as wrong as its group."""
    source = noisy(flipped=0.2, copied=0.3)
    groups = source.groups("train")
    assert len(groups) == 1297 + 389
    found = find_duplicates((("noisy", index, group) for index, group in enumerate(groups)), threshold=None)
    assert [(copy.index, copy.kept_index) for copy in found] == [(1297 + index, index) for index in range(389)]
    for copy in found:
        assert groups[copy.index].preferences == groups[copy.kept_index].preferences
        assert source.is_wrong(groups[copy.index].id) == source.is_wrong(groups[copy.kept_index].id)


def test_another_seed_makes_other_labels_wrong() -> None:
    """And the same seed the same ones, in another process too: the expected ones are known."""
    ids = [f"noisy/{number}" for number in range(200)]
    first, again, other = noisy(seed=0), noisy(seed=0), noisy(seed=1)
    assert [first.is_wrong(name) for name in ids] == [again.is_wrong(name) for name in ids]
    assert [first.is_wrong(name) for name in ids] != [other.is_wrong(name) for name in ids]
