"""Test majorities of votes and the consistency between orders."""

from __future__ import annotations

import pytest

from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.judging.voting import add_expected, expected_majority, vote_variants
from basereward.evaluation.write_evaluation import measured


def judged(row: int, votes: tuple[int | None, ...]) -> JudgedItem:
    """An item whose first response is right, with votes."""
    item = Item(row, f"r{row}", f"question {row}", ("4", "5"), (0,), (1,), f"r{row}")
    return JudgedItem(item, Outcome(votes=votes))


def test_independent_votes_give_the_binomial_majority() -> None:
    """Of 1,000 items as many have 3, 2, 1 and 0 right votes as three independent votes of accuracy 0.7 give: 343, 441,
    189 and 27. The majority is right on 784, which the closed form says of one vote's accuracy."""
    counts = {(0, 0, 0): 343, (0, 0, 1): 147, (0, 1, 0): 147, (1, 0, 0): 147}
    counts |= {(0, 1, 1): 63, (1, 0, 1): 63, (1, 1, 0): 63, (1, 1, 1): 27}
    items = [judged(0, votes) for votes, count in counts.items() for _ in range(count)]
    variants = measured(vote_variants("random", 3), items)
    add_expected(variants)
    voting = variants["over_votes"]
    assert voting["votes_1"]["value"] == pytest.approx(0.7)
    assert voting["votes_3"]["numerator"] == 784
    assert voting["votes_3"]["low"] < 0.784 < voting["votes_3"]["high"]
    assert voting["votes_3"]["baselines"]["independent"] == pytest.approx(0.784)
    assert expected_majority(0.5, 7) == pytest.approx(0.5)
    assert expected_majority(0.6, 5) == pytest.approx(0.6**5 + 5 * 0.6**4 * 0.4 + 10 * 0.6**3 * 0.4**2)


def test_unreadable_vote_is_no_vote_and_counts_to_the_number() -> None:
    """Of five votes three are right and two cannot be read: three of them have two right ones in 7 of 10 choices. An
    item with scores has no votes, and is left out."""
    scored = JudgedItem(judged(1, (0,)).item, Outcome(scores=(1.0, 0.0)))
    over_votes = measured(vote_variants("random", 5), [judged(0, (0, None, None, 0, 0)), scored])["over_votes"]
    values = [over_votes[name]["value"] for name in ("votes_1", "votes_3", "votes_5")]
    assert values == pytest.approx([0.6, 0.7, 1.0])
    assert over_votes["votes_3"]["denominator"] == 1


def test_consistency_between_orders() -> None:
    """Of five items two have the same verdict in both orders, two change with the order, one cannot be read in one
    order. A judge that takes the first answer is right where the right one is first."""
    items = [judged(0, (0, 0)), judged(1, (1, 1)), judged(2, (0, 1)), judged(3, (0, 1)), judged(4, (0, None))]
    orders = measured(vote_variants("both", 1), items)["orders"]
    assert (orders["consistent"]["numerator"], orders["consistent"]["denominator"]) == (2, 4)
    assert orders["consistent"]["undecided"] == 1
    assert (orders["right one first"]["numerator"], orders["right one first"]["denominator"]) == (4, 5)
    assert (orders["right one second"]["numerator"], orders["right one second"]["denominator"]) == (1, 4)
    assert orders["right one second"]["undecided"] == 1
