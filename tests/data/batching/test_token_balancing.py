"""Assignment of groups to forward passes, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from basereward.data.batching.token_balancing import assign_bins, bins_needed, largest_bin


@pytest.mark.parametrize(("count", "num_bins"), [(1, 1), (7, 3), (8, 4), (128, 5), (3, 3)])
def test_bins_are_a_balanced_partition(count: int, num_bins: int) -> None:
    """Every item is in one bin, and the sizes differ by at most one."""
    bins = assign_bins(count, num_bins)
    assert sorted(item for bin_ in bins for item in bin_) == list(range(count))
    sizes = [len(bin_) for bin_ in bins]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize("seed", range(5))
def test_largest_bin_equals_the_assignment(seed: int) -> None:
    """Computed for all steps at once, and from the assigned items."""
    rng = np.random.default_rng(seed)
    tokens = -np.sort(-rng.integers(1, 900, size=(20, int(rng.integers(5, 60)))), axis=1)
    num_bins = int(rng.integers(1, 9))
    bins = assign_bins(tokens.shape[1], num_bins)
    for row, largest in zip(tokens, largest_bin(tokens, num_bins), strict=True):
        assert largest == max(sum(int(row[item]) for item in bin_) for bin_ in bins)


@pytest.mark.parametrize("multiple", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_bins_needed_is_the_smallest_number(seed: int, multiple: int) -> None:
    """Every step is within the budget; with `multiple` fewer bins, one is not."""
    tokens = -np.sort(-np.random.default_rng(seed).integers(20, 900, size=(50, 32)), axis=1)
    budget = 3000
    num_bins = bins_needed(tokens, budget, multiple=multiple)
    assert num_bins % multiple == 0
    assert largest_bin(tokens, num_bins).max() <= budget
    assert num_bins == multiple or largest_bin(tokens, num_bins - multiple).max() > budget


def test_group_of_the_budget_has_its_own_bin() -> None:
    """Groups with exactly as many tokens as the budget are alone."""
    tokens = np.full((3, 4), 100)
    assert bins_needed(tokens, 100) == 4
