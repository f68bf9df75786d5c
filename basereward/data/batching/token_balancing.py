"""Distributes the groups of a step over micro-batches (bins) with about equal numbers of tokens, within a budget.

The groups, sorted by length, are assigned to the bins in alternating order: first to last, then last to first, and so
on. The result is not optimal, but close, needs no search, and is vectorized over millions of groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def assign_bins(count: int, bins: int) -> list[list[int]]:
    """Assign items, sorted by descending length, to bins.

    Returns:
        For each bin the indices of its items. No bin is empty if `count >= bins`.

    >>> assign_bins(5, 2)
    [[0, 3, 4], [1, 2]]
    """
    assigned: list[list[int]] = [[] for _ in range(bins)]
    for item in range(count):
        turn, place = divmod(item, bins)
        assigned[place if turn % 2 == 0 else bins - 1 - place].append(item)
    return assigned


def largest_bin(tokens: NDArray[np.integer], bins: int) -> NDArray[np.int64]:
    """Compute the tokens of the fullest bin of each step, as `assign_bins` fills them.

    Args:
        tokens: `(S, G)`, the tokens of each step's groups in descending order.
        bins: the number of bins of a step.

    Returns:
        `(S,)`, tokens.

    >>> largest_bin(np.array([[5, 4, 3, 2]]), 2).tolist()
    [7]
    """
    steps, groups = tokens.shape
    turns = -(-groups // bins)
    padded = np.zeros((steps, turns * bins), np.int64)
    padded[:, :groups] = tokens
    rows = padded.reshape(steps, turns, bins)
    rows[:, 1::2] = rows[:, 1::2, ::-1]  # every second turn goes from the last bin to the first
    largest: NDArray[np.int64] = rows.sum(axis=1).max(axis=1)
    return largest


def bins_needed(tokens: NDArray[np.integer], budget: int, *, multiple: int = 1) -> int:
    """Find the smallest number of bins with which no bin of any step exceeds the budget.

    Args:
        tokens: `(S, G)`, the tokens of each step's groups in descending order, none above the budget.
        budget: the largest number of tokens of a bin.
        multiple: the result is a multiple of this number.

    Returns:
        At most G, rounded up to a multiple.

    >>> bins_needed(np.array([[5, 4, 3, 2]]), 7)
    2
    """
    if not tokens.size:
        return multiple
    fewest = -(-int(tokens.sum(axis=1, dtype=np.int64).max()) // budget)  # the bound of a perfect packing
    bins = -(-max(fewest, 1) // multiple) * multiple
    while bins < tokens.shape[1] and int(largest_bin(tokens, bins).max()) > budget:
        bins += multiple
    return bins
