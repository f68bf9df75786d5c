"""Unusual losses for recipes of tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.losses.contracts import PreferenceLoss
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import Objective
from basereward.training.objectives.ranking import Ranking


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


class PairOfValues(PreferenceLoss):
    """A loss whose shape depends on the number of pairs."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar for two pairs, and a vector for more."""
        return scores[4:].sum() if len(scores) == 4 else scores[4:], {}


class Detached(BradleyTerry):
    """A loss without gradients."""

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PreferenceLoss.forward`."""
        return super().forward(scores.detach(), batch)


class Uninitialized(PreferenceLoss):
    """Leave out the constructor of the base class."""

    def __init__(self) -> None:
        self.margin = 1.0


class ObjectiveWithoutLoss(Objective):
    """Leave out the loss."""

    def __init__(self, loss: PreferenceLoss) -> None:
        nn.Module.__init__(self)


class UninitializedObjective(Objective):
    """Leave out the constructor of the base class."""

    def __init__(self, loss: PreferenceLoss) -> None:
        pass


class DetachedObjective(Ranking):
    """Give a loss without gradients."""

    def forward(self, model: RewardModel, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective.forward`."""
        loss, parts = super().forward(model, batch)
        return loss.detach(), parts


class VectorObjective(Ranking):
    """Give one loss for each response."""

    def forward(self, model: RewardModel, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective.forward`."""
        return model(batch), {}
