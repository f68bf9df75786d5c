"""The common test set on which recipes are compared."""

from __future__ import annotations

from collections.abc import Sequence

from basereward.runs.common_test_set import TestedGroups, by_key, common_test_set
from basereward.runs.score_files import ScoredGroup


def groups(source: str, ids: Sequence[object], *, scores: Sequence[float] = (1.0, 0.0)) -> list[ScoredGroup]:
    """Return groups of one pair each, right where the first score is higher."""
    return [ScoredGroup(str(name), source, list(scores), [1] * len(scores), [(0, 1, False)]) for name in ids]


def tested_run(*parts: list[ScoredGroup]) -> TestedGroups:
    """Return the tested groups of a run."""
    return by_key([group for part in parts for group in part])


def test_equal_ids_are_separate_groups() -> None:
    """Rows can have equal ids: three groups, of which a run has two right."""
    run = tested_run(groups("s", "aa"), groups("s", "a", scores=(0.0, 1.0)))
    test_set = common_test_set({"one": [run], "other": [run]})
    assert test_set.pairs.tolist() == [1, 1, 1]
    assert sorted(test_set.correct(run).tolist()) == [0, 1, 1]


def test_ties_are_not_counted() -> None:
    """One of three preferences is a tie; a group with only a tie is left out."""
    with_pairs = ScoredGroup("a", "s", [3.0, 2.0, 1.0], [1, 1, 1], [(0, 1, False), (2, 1, False), (0, 2, True)])
    only_ties = ScoredGroup("b", "s", [3.0, 2.0], [1, 1], [(0, 1, True)])
    test_set = common_test_set({"one": [by_key([with_pairs, only_ties])]})
    assert (test_set.pairs.tolist(), test_set.correct(by_key([with_pairs])).tolist()) == ([2], [1])


def test_groups_of_most_recipes_are_used() -> None:
    """All three recipes have the text groups, two also have images: they are compared on text."""
    text, pictures = groups("text", range(3)), groups("pictures", range(9))
    test_set = common_test_set(
        {"one": [tested_run(text, pictures)], "text": [tested_run(text)], "two": [tested_run(pictures, text)]}
    )
    assert test_set.names == ("one", "text", "two")
    assert [key[0] for key in test_set.groups] == ["text"] * 3


def test_larger_of_two_equally_shared_sets_is_used() -> None:
    """Two recipes have three groups and two have nine: the nine are compared."""
    small, large = groups("small", range(3)), groups("large", range(9))
    test_set = common_test_set(
        {"a": [tested_run(small)], "b": [tested_run(small)], "c": [tested_run(large)], "d": [tested_run(large)]}
    )
    assert test_set.names == ("c", "d")
    assert len(test_set.groups) == 9


def test_every_run_must_have_the_groups() -> None:
    """A group that one seed lacks is not shared, and a recipe whose seeds share no group is left out."""
    runs = [tested_run(groups("s", range(5))), tested_run(groups("s", range(1, 9)))]
    test_set = common_test_set(
        {
            "one": runs,
            "two": [tested_run(groups("s", range(9)))],
            "apart": [tested_run(groups("s", [group_id])) for group_id in "xy"],
        }
    )
    assert test_set.names == ("one", "two")
    assert [key[1] for key in test_set.groups] == ["1", "2", "3", "4"]


def test_equal_ids_with_other_preferences_are_other_groups() -> None:
    """The same id with another winner is another group."""
    other = [ScoredGroup("0", "s", [1.0, 0.0], [1, 1], [(1, 0, False)])]
    assert len(common_test_set({"one": [tested_run(groups("s", [0]))], "two": [tested_run(other)]}).names) == 1


def test_no_scores_give_an_empty_test_set() -> None:
    """Without recipes, and with a recipe without runs."""
    assert common_test_set({}).names == common_test_set({"one": []}).names == ()
