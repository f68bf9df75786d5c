"""What a head must provide: `RewardHead` for every head that reads hidden states, `GenerativeHead` for judges.

Shapes: B branches, K responses, D channels of a hidden state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import BranchTemplate
from basereward.errors import ModelError, format_count
from basereward.model.output_checks import describe_output

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


SIZES = (2, 1, 3)
"""Numbers of states on which a head is checked: a shape that depends on the number differs for one of them."""


def check_scores(head: nn.Module, hidden_size: int) -> None:
    """Runs a head on some hidden states of ones; a head that only generates text is not run.

    Raises:
        ModelError: the head fails, or does not give floating point scores `(B,)` that have gradients.
    """
    if isinstance(head, GenerativeHead) and not (head.rank_reference or head.rank_generated):
        return
    name = type(head).__name__
    training = head.training
    try:
        for size in SIZES:
            check_shape(head, _scores_of_ones(head.eval(), size, hidden_size), size)
    except ModelError:
        raise
    except Exception as error:  # a user's head may raise anything, AssertionError too
        reason = str(error) or type(error).__name__
        raise ModelError(
            f"head '{name}' fails on some hidden states of {hidden_size} numbers each: {reason}"
        ) from error
    finally:
        head.train(training)


def _scores_of_ones(head: nn.Module, size: int, hidden_size: int) -> Any:
    """What a head gives for `size` states.

    Raises:
        ModelError: it gives scores without gradients.
    """
    device = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))
    # The check must not change what a dropout or the initial weights of a later module draw.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        scores: Any = head(torch.ones(size, hidden_size, device=device, requires_grad=True))
    if isinstance(scores, Tensor) and scores.is_floating_point() and not scores.requires_grad:
        raise ModelError(
            f"head '{type(head).__name__}' gives scores without gradients, so nothing could be trained. Leave out "
            "`detach()`, `item()`, `numpy()` and `torch.no_grad()` in its `forward`."
        )
    return scores


def check_shape(head: nn.Module, scores: Any, size: int) -> None:
    """Checks that a head gave one score for each of `size` states or responses.

    Raises:
        ModelError: it gave something else.

    >>> check_shape(nn.Linear(8, 1), torch.zeros(2, 1), 2)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: head 'Linear' gives float32 of shape (2, 1) for 2 hidden states; ...
    """
    if isinstance(scores, Tensor) and scores.shape == (size,) and scores.is_floating_point():
        return
    raise ModelError(
        f"head '{type(head).__name__}' gives {describe_output(scores)} for {format_count(size, 'hidden state')}; it "
        f"must give floating point scores of shape ({size},), one for each. Remove a last axis of size one with "
        "`.squeeze(-1)`; a bare `.squeeze()` removes the first axis of one state too."
    )


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
