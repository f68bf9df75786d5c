"""What a head must provide: `RewardHead` for every head that reads hidden states, `GenerativeHead` for judges.

Shapes: B branches, K responses, D channels of a hidden state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import BranchTemplate

if TYPE_CHECKING:
    from basereward.model.generation.response_generator import ResponseGenerator


class RewardHead(Protocol):
    """A module that maps pooled hidden states to scores. Every `nn.Module` with such a `forward` is one."""

    def __call__(self, pooled: Tensor, /) -> Tensor:
        """Hidden states `(B, D)` in float32 to scores `(B,)` in float32."""
        ...


@runtime_checkable
class GenerativeHead(Protocol):
    """A head that scores by text which the backbone generates, or by the probabilities of its next token.

    A head is generative if it has all of these members; a scalar head may have any of them by chance.

    Attributes:
        branch_template: lays out the branches of a group: what follows the prompt, and which tokens are targets.
        language_weight: factor of the cross-entropy over target tokens in the training loss.
        rank_reference: whether training ranks scores that are read at the end of the text in the data.
        rank_generated: whether training ranks scores that are read at the end of text that the model generates.
    """

    branch_template: BranchTemplate
    language_weight: float
    rank_reference: bool
    rank_generated: bool

    def judge(self, generator: ResponseGenerator, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of the responses of a batch."""
        ...


@runtime_checkable
class GeneratedTextHead(GenerativeHead, Protocol):
    """A generative head that reads a score at the end of generated text; `rank_generated` requires it."""

    def append_generated(self, generator: ResponseGenerator, batch: TreeBatch, *, samples: int) -> list[TreeBatch]:
        """`samples` copies of the batch, each with generated text at the end of every branch."""
        ...


def is_generative(head: nn.Module) -> bool:
    """Whether a head has all members of `GenerativeHead`.

    >>> is_generative(nn.Linear(8, 1))
    False
    """
    return isinstance(head, GenerativeHead)


def head_scores(head: RewardHead, pooled: Tensor) -> Tensor:
    """Scores of pooled states in float32, also inside an autocast region.

    Args:
        head: with weights in float32.
        pooled: `(B, D)` in the precision of the backbone.

    Returns:
        `(B,)` in float32.

    >>> head_scores(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), torch.zeros(3, 4, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    # bfloat16 has 8 bits of mantissa: scores near 10 would be multiples of 1/16, and close responses would tie.
    with torch.autocast(pooled.device.type, enabled=False):
        return head(pooled.float())
