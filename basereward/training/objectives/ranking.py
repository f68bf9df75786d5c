"""Ranking: the loss of a scalar head."""

from __future__ import annotations

from torch import nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.heads.contracts import is_generative
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective, mismatch


class Ranking(Objective):
    """Ranks the scores that a scalar head reads at the end of each response."""

    def check_head(self, head: nn.Module) -> None:
        """
        Raises:
            ModelError: the head is generative.
        """
        if is_generative(head):
            raise mismatch(self, head, needs="scalar heads")

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """Rank the scores of the one forward pass."""
        return self.ranking_loss([model(batch)], batch)
