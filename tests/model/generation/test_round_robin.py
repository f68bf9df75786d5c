"""Scores from pairwise verdicts, compared with hand calculations and with a least-squares fit."""

from __future__ import annotations

import math
import random
from itertools import permutations

import numpy as np
import pytest

from basereward.model.generation.round_robin import ordered_pairs, scores


@pytest.mark.parametrize("count", [2, 3, 5])
def test_ordered_pairs(count: int) -> None:
    """`both` has every ordered pair once. The other orders have every pair once, and `random` repeats with its seed."""
    assert sorted(ordered_pairs(count, "both")) == sorted(permutations(range(count), 2))
    for order in ("given", "random"):
        pairs = ordered_pairs(count, order, seed="a")  # type: ignore[arg-type]
        assert sorted(tuple(sorted(pair)) for pair in pairs) == ordered_pairs(count, "given")
    assert ordered_pairs(count, "random", seed="a") == ordered_pairs(count, "random", seed="a")


def test_random_order_swaps_half_of_the_pairs() -> None:
    """Of a thousand pairs 500 +- 63 are swapped, which is four standard deviations."""
    num_swapped = sum(ordered_pairs(2, "random", seed=str(i)) == [(1, 0)] for i in range(1000))
    assert 437 <= num_swapped <= 563


def test_scores_are_the_least_squares_fit() -> None:
    """The scores solve the least-squares problem of all leads, compared with numpy."""
    rng = random.Random(0)
    leads_of_pairs = {pair: [rng.gauss(0, 1) for _ in range(3)] for pair in ordered_pairs(4, "both")}
    rows, leads = [], []
    for i, j in ordered_pairs(4, "given"):
        rows.append([(k == i) - (k == j) for k in range(4)])
        leads.append(np.mean([*leads_of_pairs[i, j], *(-value for value in leads_of_pairs[j, i])]))
    expected = np.linalg.lstsq(np.array(rows, float), np.array(leads), rcond=None)[0]
    assert scores(4, leads_of_pairs) == pytest.approx(expected)  # type: ignore[arg-type]


def test_swapping_two_responses_swaps_their_scores() -> None:
    """The scores of a pair and of the swapped pair are the same two values in reverse order."""
    leads = {(0, 1): [1.0, None, 1.0], (1, 0): [1.0]}
    first, second = scores(2, leads)
    assert first - second == pytest.approx(1 / 3)
    assert scores(2, {(j, i): values for (i, j), values in leads.items()}) == [second, first]


def test_unparsed_verdict_is_ignored() -> None:
    """A verdict that could not be parsed counts for no response; a response without any verdict has no score."""
    assert scores(2, {(0, 1): [None, 1.0], (1, 0): [None]}) == [0.5, -0.5]
    first, second, third = scores(3, {(0, 1): [1.0], (0, 2): [None]})
    assert (first, second) == (1 / 3, -1 / 3)
    assert math.isnan(third)
