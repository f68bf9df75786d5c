"""What a ranking loss must provide, the weighting of its terms, and the check of a loss where it is built.

Shapes: K responses of all groups of a batch, G groups, N terms of a loss (preferences, or choices of a ranking).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from basereward.data.batching.loss_units import Unit
from basereward.data.batching.pooled import PooledGroup, collate_pooled
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Preference
from basereward.errors import ModelError
from basereward.model.output_checks import check_initialized, describe_output
from basereward.recipe import make
from basereward.recipe.schema import Node

PAIRS = (2, 3)
"""Numbers of pairs on which a loss is checked."""


class PreferenceLoss(nn.Module):
    """Base class of ranking losses: maps the scores of a micro-batch and its preferences to a scalar.

    The scalar is a mean over units of the micro-batch. The class says which by `unit`, and the training step weights
    micro-batches by their number of units, so that the loss of a step does not depend on its division into
    micro-batches. A loss may have parameters of its own; they are trained as the part `loss`, with a learning
    rate of its own in `optimizer.lr_by_part`.

    Attributes:
        unit: what the loss is a mean over; see `basereward.data.batching.loss_units`.
    """

    unit: Unit = "group"

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch.

        Args:
            scores: `(K,)` in float32.
            batch: has the preferences as indices among the K scores.

        Returns:
            The loss, a scalar, and its named parts for the log, which add up to it.
        """
        raise NotImplementedError


def group_weights(weight: Tensor, *, counted: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """The factors with which a sum of terms is the mean over groups of the mean over the terms of each group.

    Without them a ranking of K responses, with its K * (K - 1) / 2 preferences, would outweigh all pairs of a batch.

    Args:
        weight: `(N,)`, the weight of each term in the data.
        counted: `(N,)` bool, whether a term counts; groups without a counted term are not in the mean.
        group: `(N,)` int64, the index of each term's group.
        num_groups: G.

    Returns:
        `(N,)`, 0 for terms that do not count.

    >>> group = torch.tensor([0, 0, 1])
    >>> group_weights(torch.ones(3), counted=torch.tensor([True, True, True]), group=group, num_groups=2).tolist()
    [0.25, 0.25, 0.5]
    """
    terms = torch.zeros(num_groups, device=weight.device).index_add(0, group, counted.to(weight.dtype))
    groups = (terms > 0).sum().clamp_min(1)  # a batch of nothing but ignored ties has loss 0, not NaN
    return weight * counted / terms.clamp_min(1)[group] / groups


def term_weights(weight: Tensor, *, counted: Tensor) -> Tensor:
    """The factors with which a sum of terms is their mean, whatever group they belong to; see `group_weights`.

    >>> term_weights(torch.ones(4), counted=torch.tensor([True, True, False, False])).tolist()
    [0.5, 0.5, 0.0, 0.0]
    """
    return weight * counted / counted.sum().clamp_min(1)


def build_loss(node: Node) -> PreferenceLoss:
    """Build the ranking loss of a recipe, and check it on a few pairs of scores.

    Args:
        node: section `loss` of a recipe.

    Raises:
        RecipeError: the node has a fault.
        ModelError: the object is no `PreferenceLoss`, fails, or does not give a finite scalar
            with gradients and named scalars.

    >>> build_loss({"_target_": "plackett_luce"}).unit
    'decided_group'
    """
    loss = make(node, "losses")
    check_loss(loss)
    assert isinstance(loss, PreferenceLoss)
    return loss


def check_loss(loss: Any) -> None:
    """Run a loss on a few pairs; see `build_loss`.

    Raises:
        ModelError: the object does not meet the contract; the message says what it gave.
    """
    name = type(loss).__name__
    if not isinstance(loss, PreferenceLoss):
        raise ModelError(
            f"loss '{name}' is no PreferenceLoss: derive the class from "
            "`basereward.model.losses.contracts.PreferenceLoss`, and compute the loss in `forward(scores, batch)`."
        )
    check_initialized(loss, "loss")
    # Twice, because a shape may depend on the number of pairs.
    for pairs in PAIRS:
        scores = torch.linspace(1.0, -0.5, 2 * pairs, requires_grad=True)
        try:
            result: Any = loss(scores, _made_pairs(pairs))
        except Exception as error:  # a user's loss may raise anything, AssertionError too
            reason = str(error) or type(error).__name__
            raise ModelError(f"loss '{name}' fails on {pairs} pairs of scores: {reason}") from error
        if not (is_loss_and_parts(result) and all(map(torch.isfinite, [result[0], *result[1].values()]))):
            raise ModelError(
                f"loss '{name}' gives {describe_output(result)} for {pairs} pairs of scores; it must give a finite "
                "scalar tensor and a dict of named scalar tensors."
            )
        if not result[0].requires_grad:
            raise ModelError(
                f"loss '{name}' gives a value without gradients, so nothing could be trained. Compute it from `scores` "
                "without `detach()`, `item()`, `numpy()` and `torch.no_grad()`."
            )


def is_loss_and_parts(result: Any) -> bool:
    """Whether a loss or an objective returned a scalar and a dict of scalars.

    >>> is_loss_and_parts((torch.tensor(1.0), {"ranking": torch.tensor(1.0)})), is_loss_and_parts(torch.tensor(1.0))
    (True, False)
    """
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        return False
    return all(isinstance(value, Tensor) and value.shape == () for value in [result[0], *result[1].values()])


def _made_pairs(number: int) -> TreeBatch:
    """A batch without tokens: groups of two responses, the first of each preferred."""
    states = torch.zeros(2, 1)
    pairs = [PooledGroup(f"pair {index}", "made", (Preference(0, 1),), (3, 3), states) for index in range(number)]
    return collate_pooled(pairs)
