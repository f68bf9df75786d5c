"""Test that comparisons are shown in both orders equally often, with the right labels, prompts and images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError
from basereward.rl.rows import JudgeRows, shuffled_pairs
from tests.helpers.judge_training import pair_groups


@pytest.mark.parametrize("count", [1, 7, 40])
def test_labels_are_one_to_one_whatever_the_order_of_the_data(count: int) -> None:
    """The better answer is always the first one in the data, and is shown second in half of the rows."""
    labels = Counter(pair.label for pair in shuffled_pairs(pair_groups(count)))
    assert abs(labels[1] - labels[2]) == count % 2
    assert labels.total() == count


def test_label_names_the_winner_and_ties_are_left_out() -> None:
    """Of K responses every decided preference is shown once; the label is the place of its winner."""
    preferences = (Preference(2, 0), Preference(1, 2), Preference(0, 1, tie=True))
    group = Group("g", "test", (), ("a", "b", "c"), preferences)
    winners = {}
    for pair in shuffled_pairs([group] * 8):
        shown = (pair.first, pair.second)
        winners.setdefault(frozenset(shown), set()).add(shown[pair.label - 1])
    assert winners == {frozenset({0, 2}): {2}, frozenset({1, 2}): {1}}


def test_orders_depend_on_the_seed_alone() -> None:
    """The same seed gives the same rows, another one other rows."""
    groups = pair_groups(40)
    assert shuffled_pairs(groups, seed=3) == shuffled_pairs(groups, seed=3)
    assert shuffled_pairs(groups, seed=3) != shuffled_pairs(groups, seed=4)


def test_groups_without_a_decided_preference_are_refused() -> None:
    """Training on no rows would be a success that learned nothing."""
    with pytest.raises(DataError, match="tie"):
        shuffled_pairs([Group("g", "test", (), ("a", "b"), (Preference(0, 1, tie=True),))])


def test_rows_have_the_answers_in_their_order_and_the_images_in_place() -> None:
    """The prompt has as many places as images; a row without images has an empty list, and an index picks its row."""
    rows = JudgeRows(pair_groups(6, images=(2, 0)))
    table = rows.table()
    assert len(table) == 6
    for row, pair in zip(table[[4, 1, 4]]["prompt"], [rows.pairs[4], rows.pairs[1], rows.pairs[4]], strict=True):
        parts: list[dict[str, Any]] = row[0]["content"]
        text = "".join(part.get("text", "") for part in parts)
        answers = rows.groups[pair.group].responses
        assert f"Answer 1: {answers[pair.first]}\n" in text
        assert f"Answer 2: {answers[pair.second]}\n" in text
        assert f"Digit {pair.group}?" in text
        assert [part["type"] for part in parts].count("image") == len(rows.groups[pair.group].images)
    assert {len(images) for images in table[:]["images"]} == {0, 2}
    assert table[:]["label"] == [pair.label for pair in rows.pairs]
