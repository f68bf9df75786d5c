"""Generative training: the cross-entropy of verdicts or ratings."""

from __future__ import annotations

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective, group_share


class Generative(Objective):
    """Teaches a generative head the target tokens of its branches; it ranks no scores."""

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """See `Objective.forward`."""
        assert isinstance(model.head, GenerativeHead)
        language = model.language_loss(model.backbone.hidden_states(batch), batch) * group_share(batch)
        return model.head.language_weight * language, {"language": language}
