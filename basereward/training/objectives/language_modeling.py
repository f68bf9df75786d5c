"""Language modeling: the cross-entropy of verdicts or ratings."""

from __future__ import annotations

from torch import nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.heads.contracts import GenerativeHead, is_generative
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective, group_share, mismatch


class LanguageModeling(Objective):
    """Trains a generative head to write the target tokens of its branches, and ranks no scores."""

    def check_head(self, head: nn.Module) -> None:
        """
        Raises:
            ModelError: the head is not generative.
        """
        if not is_generative(head):
            raise mismatch(self, head, needs="generative heads")

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """Weight the cross-entropy by the share of the groups and by the weight of the head."""
        assert isinstance(model.head, GenerativeHead)
        language = model.language_loss(model.backbone.hidden_states(batch), batch) * group_share(batch)
        # The logged part has no weight, so that curves of different weights are comparable.
        return model.head.language_weight * language, {"language": language}
