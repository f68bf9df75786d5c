"""The number of preferences that the other metrics use, and the number of ties that they leave out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from basereward.metrics.margins import untied


class PairCount(Metric):
    """`pairs`, the denominator of pair accuracy, and `ties`, which it does not contain.

    >>> metric = PairCount()
    >>> metric.update(torch.tensor([2.0, -1.0, 3.0]), ties=torch.tensor([False, False, True]))
    >>> metric.compute()
    {'pairs': tensor(2), 'ties': tensor(1)}
    """

    full_state_update = False
    pairs: Tensor
    ties: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("pairs", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("ties", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, margins: Tensor, *, ties: Tensor | None = None) -> None:
        """Count P preferences: `margins (P,)`, `ties (P,)` of bool."""
        used = untied(margins, ties)
        self.pairs += used.sum()
        self.ties += (~used).sum()

    def compute(self) -> dict[str, Tensor]:
        """The counts over all processes."""
        return {"pairs": self.pairs, "ties": self.ties}
