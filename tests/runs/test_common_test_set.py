"""On what recipes can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from basereward.runs.common_test_set import TestedGroups, by_key, common_test_set
from basereward.runs.score_files import ScoredGroup


def groups(source: str, ids: Sequence[object], *, scores: Sequence[float] = (1.0, 0.0)) -> list[ScoredGroup]:
    """Of one pair each, right where the first scores more."""
    return [ScoredGroup(str(name), source, list(scores), [1] * len(scores), [(0, 1, False)]) for name in ids]


def a_run(*parts: list[ScoredGroup]) -> TestedGroups:
    """A run's."""
    return by_key([group for part in parts for group in part])


def test_equal_ids_are_groups_of_their_own() -> None:
    """The reader takes rows with equal ids: three groups, of which a run has two right."""
    run = a_run(groups("s", "aa"), groups("s", "a", scores=(0.0, 1.0)))
    on = common_test_set({"one": [run], "other": [run]})
    assert on.pairs.tolist() == [1, 1, 1]
    assert sorted(on.correct(run).tolist()) == [0, 1, 1]


def test_ties_are_no_pairs() -> None:
    """Of three preferences one ties; a group of ties alone is not there."""
    some = ScoredGroup("a", "s", [3.0, 2.0, 1.0], [1, 1, 1], [(0, 1, False), (2, 1, False), (0, 2, True)])
    none = ScoredGroup("b", "s", [3.0, 2.0], [1, 1], [(0, 1, True)])
    on = common_test_set({"one": [by_key([some, none])]})
    assert (on.pairs.tolist(), on.correct(by_key([some])).tolist()) == ([2], [1])


def test_the_groups_of_most_recipes_are_taken() -> None:
    """Three that read text, of which two read pictures too: all are compared on text."""
    text, pictures = groups("text", range(3)), groups("pictures", range(9))
    on = common_test_set({"one": [a_run(text, pictures)], "text": [a_run(text)], "two": [a_run(pictures, text)]})
    assert on.names == ("one", "text", "two")
    assert [key[0] for key in on.groups] == ["text"] * 3


def test_of_two_sets_that_as_many_hold_the_larger_is_taken() -> None:
    """Two recipes on three groups and two on nine: none holds all twelve, and the nine are compared."""
    small, large = groups("small", range(3)), groups("large", range(9))
    on = common_test_set({"a": [a_run(small)], "b": [a_run(small)], "c": [a_run(large)], "d": [a_run(large)]})
    assert on.names == ("c", "d")
    assert len(on.groups) == 9


def test_every_run_must_have_been_tested_on_them() -> None:
    """A group that one seed lacks is not shared, and a recipe whose seeds share none is not there."""
    runs = [a_run(groups("s", range(5))), a_run(groups("s", range(1, 9)))]
    on = common_test_set(
        {"one": runs, "two": [a_run(groups("s", range(9)))], "apart": [a_run(groups("s", [each])) for each in "xy"]}
    )
    assert on.names == ("one", "two")
    assert [key[1] for key in on.groups] == ["1", "2", "3", "4"]


def test_equal_names_of_other_preferences_are_other_groups() -> None:
    """The same id with another winner is another question."""
    other = [ScoredGroup("0", "s", [1.0, 0.0], [1, 1], [(1, 0, False)])]
    assert len(common_test_set({"one": [a_run(groups("s", [0]))], "two": [a_run(other)]}).names) == 1


def test_without_scores_nothing_is_shared() -> None:
    """Neither without recipes."""
    assert common_test_set({}).names == common_test_set({"one": []}).names == ()
