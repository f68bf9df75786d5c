"""The mean margin between winner and loser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from basereward.metrics.margins import untied


class MeanMargin(Metric):
    """Mean of score(winner) - score(loser), in units of the score; ties are left out. NaN without pairs.

    >>> metric = MeanMargin()
    >>> metric.update(torch.tensor([2.0, -1.0, 0.5]))
    >>> metric.compute()
    tensor(0.5000)
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    carry: Tensor
    pairs: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("carry", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("pairs", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, margins: Tensor, *, ties: Tensor | None = None) -> None:
        """Add P preferences: `margins (P,)`, `ties (P,)` of bool."""
        used = untied(margins, ties)
        # Kahan summation: plain float32 drifts over millions of rows, and Apple's GPUs have no float64.
        added = margins[used].float().sum() + self.carry
        total = self.total + added
        self.carry = added - (total - self.total)
        self.total = total
        self.pairs += used.sum()

    def compute(self) -> Tensor:
        """The mean margin over all processes; NaN without pairs."""
        return (self.total + self.carry) / self.pairs
