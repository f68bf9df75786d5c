"""Critic training (BaseReward, "critic-then-score"): critiques are learned, and scores after them are ranked.

Shapes: K responses of all groups of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.heads.contracts import GenerativeHead, head_scores
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective, group_share, mismatch


@dataclass(frozen=True, slots=True)
class CriticOutputs:
    """The outputs of a training pass of a critic, from which its losses are computed.

    Attributes:
        scores: tensors of `(K,)`: at the end of reference critiques, of generated ones, or both.
        language: scalar, the mean over groups of the mean cross-entropy of target tokens; None without targets.

    >>> CriticOutputs(scores=(torch.zeros(2),), language=None).language is None
    True
    """

    scores: tuple[Tensor, ...]
    language: Tensor | None


class CritiqueRanking(Objective):
    """Ranks the scores after reference or generated critiques, and trains the head to write the reference critiques."""

    def check_head(self, head: nn.Module) -> None:
        """
        Raises:
            ModelError: the head reads no score at the end of a text.
        """
        if not (isinstance(head, GenerativeHead) and (head.rank_reference or head.rank_generated)):
            raise mismatch(self, head, needs="heads that score after a critique")

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """Add the ranking loss and the weighted language loss; a head may have only one of them."""
        assert isinstance(model.head, GenerativeHead)
        outputs = critic_outputs(model, batch)
        losses: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        if outputs.scores:
            ranking, parts = self.ranking_loss(outputs.scores, batch)
            losses.append(ranking)
        if outputs.language is not None:
            parts["language"] = outputs.language * group_share(batch)
            losses.append(model.head.language_weight * parts["language"])
        return torch.stack(losses).sum(), parts


def critic_outputs(model: RewardModel, batch: TreeBatch) -> CriticOutputs:
    """Return the scores and the language loss of a training pass of a generative head.

    Args:
        model: with a generative head.
        batch: with target tokens for the reference text, if the head learns any.
    """
    head = model.head
    assert isinstance(head, GenerativeHead)
    scores: list[Tensor] = []
    language = None
    # Without reference critiques a batch has no target positions, and this pass would train nothing.
    if len(batch.targets.positions):
        # One pass over the backbone serves both losses.
        hidden = model.backbone.hidden_states(batch)
        language = model.language_loss(hidden, batch)
        if head.rank_reference:
            scores.append(head_scores(model.head, model.pooling(hidden, batch)))
    if head.rank_generated:
        scores.append(model.generated_scores(batch))
    return CriticOutputs(tuple(scores), language)
