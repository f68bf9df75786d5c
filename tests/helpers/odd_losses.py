"""Unusual losses for recipes of tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.losses.contracts import PreferenceLoss


class Tempered(BradleyTerry):
    """Bradley-Terry with a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PreferenceLoss.forward`."""
        return super().forward(scores / self.log_temperature.exp(), batch)


class NotALoss:
    """A callable that is no module."""

    def __call__(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar without parts."""
        return scores.sum(), {}


class OnePerPair(PreferenceLoss):
    """A loss that does not reduce to a mean."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per preference."""
        return scores[batch.preferences.loser] - scores[batch.preferences.winner], {}


class ScalarOnly(PreferenceLoss):
    """A loss that returns no parts."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar only."""
        return scores.sum()  # type: ignore[return-value]


class Infinite(PreferenceLoss):
    """A loss that divides by zero."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return infinity."""
        return scores.abs().sum() / 0.0, {}


class Failing(PreferenceLoss):
    """A loss that raises an `AssertionError`."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Always raise."""
        raise AssertionError("not today")
