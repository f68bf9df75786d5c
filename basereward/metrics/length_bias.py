"""Length bias: how often the longer response is preferred, by the data and by the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from basereward.metrics.margins import untied


class LengthBias(Metric):
    """Two shares of the preferences whose responses differ in length; ties are left out. NaN without pairs.

    `longer_wins`: in the data, the longer response is the winner. `follows_length`: the model gives the longer response
    the higher score; a margin of 0 counts as no. A model whose `follows_length` exceeds `longer_wins` is biased.
    `equal_lengths` is the number of preferences between responses of equal length.

    >>> metric = LengthBias()
    >>> winner_lengths, loser_lengths = torch.tensor([9, 2, 9, 4]), torch.tensor([3, 5, 3, 4])
    >>> metric.update(torch.tensor([1.0, -1.0, 2.0, 1.0]), winner_lengths=winner_lengths, loser_lengths=loser_lengths)
    >>> metric.compute()
    {'longer_wins': tensor(0.6667), 'follows_length': tensor(1.), 'equal_lengths': tensor(1)}
    """

    full_state_update = False
    is_differentiable = False
    longer_wins: Tensor
    follows: Tensor
    unequal: Tensor
    equal: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("longer_wins", "follows", "unequal", "equal"):
            self.add_state(state, torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, margins: Tensor, *, winner_lengths: Tensor, loser_lengths: Tensor, ties: Tensor | None = None
    ) -> None:
        """Add P preferences: `margins (P,)`, the lengths (P,) of their responses in any one unit, `ties (P,)` of bool.

        Raises:
            ValueError: the lengths are not (P,).
        """
        used = untied(margins, ties)
        if not winner_lengths.shape == loser_lengths.shape == margins.shape:
            shapes = f"{tuple(winner_lengths.shape)} and {tuple(loser_lengths.shape)}"
            raise ValueError(
                f"lengths have the shapes {shapes}; allowed is that of the margins, {tuple(margins.shape)}."
            )
        # Only the sign counts: the metric asks which response is longer, not by how much.
        difference = (winner_lengths - loser_lengths).sign()
        unequal = used & (difference != 0)
        self.longer_wins += (unequal & (difference > 0)).sum()
        self.follows += (unequal & (margins.sign() == difference)).sum()
        self.unequal += unequal.sum()
        self.equal += (used & (difference == 0)).sum()

    def compute(self) -> dict[str, Tensor]:
        """Two shares, which are NaN without pairs of unequal length, and the count of the others."""
        return {
            "longer_wins": self.longer_wins / self.unequal,
            "follows_length": self.follows / self.unequal,
            "equal_lengths": self.equal,
        }
