"""How often the preferred response scores higher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from basereward.metrics.margins import untied


class PairAccuracy(Metric):
    """Share of preferences with margin > 0. A margin of 0 is wrong; ties are left out. NaN without pairs.

    >>> metric = PairAccuracy()
    >>> metric.update(torch.tensor([2.0, -1.0, 0.0, 3.0]), ties=torch.tensor([False, False, False, True]))
    >>> metric.compute()
    tensor(0.3333)
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    correct: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, margins: Tensor, *, ties: Tensor | None = None) -> None:
        """Count P preferences: `margins (P,)`, `ties (P,)` of bool."""
        used = untied(margins, ties)
        # `>`, not `>=`: a model that gives all responses one score must not be right.
        self.correct += ((margins > 0) & used).sum()
        self.total += used.sum()

    def compute(self) -> Tensor:
        """The share of correct pairs over all processes; NaN without pairs."""
        return self.correct / self.total
