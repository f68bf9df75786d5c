"""Losses as people write them, by name in recipes of tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.losses.contracts import PreferenceLoss


class Tempered(BradleyTerry):
    """Bradley-Terry with a temperature that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PreferenceLoss.forward`."""
        return super().forward(scores / self.log_temperature.exp(), batch)


class NotALoss:
    """A callable that is no module."""

    def __call__(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar without parts."""
        return scores.sum(), {}


class OnePerPair(PreferenceLoss):
    """Forgets the mean."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """One loss a preference."""
        return scores[batch.preferences.loser] - scores[batch.preferences.winner], {}


class ScalarOnly(PreferenceLoss):
    """Forgets the parts."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """A scalar alone."""
        return scores.sum()  # type: ignore[return-value]


class Infinite(PreferenceLoss):
    """Divides by zero."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Infinity."""
        return scores.abs().sum() / 0.0, {}


class Failing(PreferenceLoss):
    """Raises an error of its own."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Nothing."""
        raise AssertionError("not today")
