"""Groups dealt to forward passes, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from basereward.data.batching.token_balancing import assign_bins, bins_needed, largest_bin


@pytest.mark.parametrize(("count", "hands"), [(1, 1), (7, 3), (8, 4), (128, 5), (3, 3)])
def test_every_card_is_dealt_once_and_no_hand_is_empty(count: int, hands: int) -> None:
    """The hands are a partition, and differ by at most one card."""
    dealt = assign_bins(count, hands)
    assert sorted(card for hand in dealt for card in hand) == list(range(count))
    sizes = [len(hand) for hand in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_bin_is_what_dealing_gives(seed: int) -> None:
    """Counted for all steps at once and dealt one by one, the fullest hand has the same tokens."""
    rng = np.random.default_rng(seed)
    tokens = -np.sort(-rng.integers(1, 900, size=(20, int(rng.integers(5, 60)))), axis=1)
    hands = int(rng.integers(1, 9))
    dealt = assign_bins(tokens.shape[1], hands)
    for row, largest in zip(tokens, largest_bin(tokens, hands), strict=True):
        assert largest == max(sum(int(row[card]) for card in hand) for hand in dealt)


@pytest.mark.parametrize("multiple", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_bins_needed_are_within_the_budget_and_no_fewer_would_do(seed: int, multiple: int) -> None:
    """With so many hands every step fits; with `multiple` fewer one does not."""
    tokens = -np.sort(-np.random.default_rng(seed).integers(20, 900, size=(50, 32)), axis=1)
    budget = 3000
    hands = bins_needed(tokens, budget, multiple=multiple)
    assert hands % multiple == 0
    assert largest_bin(tokens, hands).max() <= budget
    assert hands == multiple or largest_bin(tokens, hands - multiple).max() > budget


def test_a_group_as_long_as_the_budget_gets_a_pass_of_its_own() -> None:
    """At the limit every group is alone."""
    tokens = np.full((3, 4), 100)
    assert bins_needed(tokens, 100) == 4
