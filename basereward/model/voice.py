"""A head that speaks, at work: it writes after every branch, and scores what it has written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from basereward.data.continued import continued
from basereward.data.tree import TreeBatch
from basereward.errors import ModelError
from basereward.model.generation import Writer, Writing

if TYPE_CHECKING:
    from basereward.data.encoding import Encoder
    from basereward.model.reward import RewardModel


def speaks(head: nn.Module) -> bool:
    """Whether a head writes before it scores."""
    return getattr(head, "speech", None) is not None


class Voice:
    """Writes and scores.

    Args:
        encoder: that of the batches.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.end = encoder.end_of_turn
        self.pad = encoder.pad_id

    def scores(self, model: RewardModel, batch: TreeBatch) -> Tensor:
        """Scores `(B,)` of responses, each at the end of what the model writes about it; the mean over samples.

        Pictures are encoded once. Raises:
            ModelError: the batch is of plain rows.
        """
        if batch.layout == "plain":
            raise ModelError("a head that speaks writes after tree rows; batch.layout is plain. Set batch.layout=tree.")
        assert model.language is not None
        head: Any = model.head
        how: Writing = head.writing
        with model.backbone.vision.holding(model.backbone.transformer, batch):
            writer = Writer(model.backbone, model.language, end=self.end, pad=self.pad)
            written = writer(batch, how)
            found = [
                model(continued(batch, [self._ended(texts[i], how) for texts in written])) for i in range(how.samples)
            ]
        return torch.stack(found).mean(0)

    def _ended(self, text: Tensor, how: Writing) -> Tensor:
        """A text with its end of turn, unless it was cut."""
        return text if len(text) >= how.max_tokens else torch.cat([text, text.new_tensor([self.end])])
