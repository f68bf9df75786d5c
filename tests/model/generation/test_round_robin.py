"""Scores from verdicts: by hand, against least squares, and by their laws."""

from __future__ import annotations

import math
import random
from itertools import permutations

import numpy as np
import pytest

from basereward.model.generation.round_robin import ordered_pairs, scores


@pytest.mark.parametrize("count", [2, 3, 5])
def test_orders(count: int) -> None:
    """Both has every ordered pair once; the others every pair once, the random one the same for the same seed."""
    assert sorted(ordered_pairs(count, "both")) == sorted(permutations(range(count), 2))
    for order in ("given", "random"):
        shown = ordered_pairs(count, order, seed="a")  # type: ignore[arg-type]
        assert sorted(tuple(sorted(pair)) for pair in shown) == ordered_pairs(count, "given")
    assert ordered_pairs(count, "random", seed="a") == ordered_pairs(count, "random", seed="a")


def test_random_orders_are_even() -> None:
    """About half of a thousand pairs are turned round: within four standard deviations, 500 +- 63."""
    turned = sum(ordered_pairs(2, "random", seed=str(i)) == [(1, 0)] for i in range(1000))
    assert 437 <= turned <= 563


def test_scores_are_the_least_squares_fit() -> None:
    """Of all leads, as numpy solves it."""
    rng = random.Random(0)
    found = {pair: [rng.gauss(0, 1) for _ in range(3)] for pair in ordered_pairs(4, "both")}
    rows, leads = [], []
    for i, j in ordered_pairs(4, "given"):
        rows.append([(k == i) - (k == j) for k in range(4)])
        leads.append(np.mean([*found[i, j], *(-value for value in found[j, i])]))
    expected = np.linalg.lstsq(np.array(rows, float), np.array(leads), rcond=None)[0]
    assert scores(4, found) == pytest.approx(expected)  # type: ignore[arg-type]


def test_swapping_two_answers_swaps_their_scores() -> None:
    """Preference of one over the other and of the other over the one sum to one."""
    found = {(0, 1): [1.0, None, 1.0], (1, 0): [1.0]}
    ahead, behind = scores(2, found)
    assert ahead - behind == pytest.approx(1 / 3)
    assert scores(2, {(j, i): values for (i, j), values in found.items()}) == [behind, ahead]


def test_a_verdict_that_could_not_be_read_says_nothing() -> None:
    """Neither for nor against; an answer without any verdict has no score."""
    assert scores(2, {(0, 1): [None, 1.0], (1, 0): [None]}) == [0.5, -0.5]
    first, second, third = scores(3, {(0, 1): [1.0], (0, 2): [None]})
    assert (first, second) == (1 / 3, -1 / 3)
    assert math.isnan(third)
