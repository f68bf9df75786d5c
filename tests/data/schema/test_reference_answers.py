"""Test which responses of a group are reference answers."""

from __future__ import annotations

import itertools

from basereward.data.schema.group import Group, Preference
from basereward.data.schema.preferences import reference_answers


def test_ties_count_in_any_order_of_the_preferences() -> None:
    """A tie with a tie with a right response is right, wherever the two stand; one with a wrong response is not."""
    known = (Preference(0, 1), Preference(0, 2, tie=True), Preference(2, 3, tie=True), Preference(1, 4, tie=True))
    for preferences in itertools.permutations(known):
        assert reference_answers(Group("a", "sums", (), tuple("abcde"), preferences)) == ("a", "c", "d")
