"""Deals the groups of a step to forward passes, so that each has about as many tokens and none more than a budget.

A step's groups are sorted by length and dealt like cards to players who sit in a row: left to right, then right to
left, and so on. It is no optimum, but it is close, needs no search, and does millions of groups at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def deal(count: int, hands: int) -> list[list[int]]:
    """Which of `count` cards, sorted, every hand gets; no hand is empty when there are as many cards.

    >>> deal(5, 2)
    [[0, 3, 4], [1, 2]]
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    for card in range(count):
        turn, place = divmod(card, hands)
        dealt[place if turn % 2 == 0 else hands - 1 - place].append(card)
    return dealt


def largest_hand(tokens: NDArray[np.integer], hands: int) -> NDArray[np.int64]:
    """The tokens of the fullest hand of every step.

    Args:
        tokens: shape `(S, G)`, each step's groups by descending length.

    Returns:
        shape `(S,)`.
    """
    steps, groups = tokens.shape
    turns = -(-groups // hands)
    padded = np.zeros((steps, turns * hands), np.int64)
    padded[:, :groups] = tokens
    rows = padded.reshape(steps, turns, hands)
    rows[:, 1::2] = rows[:, 1::2, ::-1]
    largest: NDArray[np.int64] = rows.sum(axis=1).max(axis=1)
    return largest


def hands_needed(tokens: NDArray[np.integer], budget: int, *, multiple: int = 1) -> int:
    """The fewest hands, a multiple of `multiple`, with which no hand of any step is above the budget.

    Args:
        tokens: shape `(S, G)`, each step's groups by descending length, none above the budget.

    Returns:
        at most G, rounded up.
    """
    if not tokens.size:
        return multiple
    fewest = -(-int(tokens.sum(axis=1, dtype=np.int64).max()) // budget)
    hands = -(-max(fewest, 1) // multiple) * multiple
    while hands < tokens.shape[1] and int(largest_hand(tokens, hands).max()) > budget:
        hands += multiple
    return hands
