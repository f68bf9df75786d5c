"""What an objective must provide, and the choice of an objective for a recipe.

Shapes: K responses of all groups of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from basereward.data.batching.loss_units import Unit, count_units
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.losses.contracts import PreferenceLoss, is_loss_and_parts
from basereward.model.output_checks import check_initialized, describe_output
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from basereward.recipe.schema import Node

LossAndParts = tuple[Tensor, dict[str, Tensor]]
"""The loss of a micro-batch, a scalar, and its named parts for the log."""


class Objective(nn.Module):
    """What a training step does with a micro-batch: base class of ranking, critique ranking and language modeling.

    Args:
        loss: the ranking loss of the recipe. An objective that ranks nothing does not use it.

    >>> class LengthPenalty(Objective):
    ...     def forward(self, model, batch):
    ...         loss = (model(batch) * batch.lengths).mean() * group_share(batch)
    ...         return loss, {"length": loss}
    >>> LengthPenalty(PreferenceLoss()).unit
    'group'
    """

    def __init__(self, loss: PreferenceLoss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def unit(self) -> Unit:
        """The unit whose number per optimizer step the data module has to count."""
        return self.loss.unit

    def check_head(self, head: nn.Module) -> None:
        """Check that the objective can train a head; by default it can train any.

        Args:
            head: of the model.

        Raises:
            ModelError: it cannot.
        """

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """The loss of a micro-batch.

        Lightning takes the mean over the micro-batches of a step. An objective weights its losses with
        `group_share` or `unit_share`, so that this mean is the loss of the whole step.

        Args:
            model: in training mode.
            batch: a micro-batch, on the device of the model.
        """
        raise NotImplementedError

    def __call__(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """The loss of a micro-batch, as `forward` gives it, checked.

        The check is here and not where the objective is built, because building a model runs no forward pass.

        Raises:
            ModelError: `forward` gives something else than a scalar with gradients and named scalars.
        """
        result: Any = super().__call__(model, batch)
        name = type(self).__name__
        if not is_loss_and_parts(result):
            raise ModelError(
                f"objective '{name}' gives {describe_output(result)}; it must give a scalar tensor and a dict of named "
                "scalar tensors."
            )
        if torch.is_grad_enabled() and not result[0].requires_grad:
            raise ModelError(
                f"objective '{name}' gives a loss without gradients, so nothing could be trained. Compute it from the "
                "scores of the model without `detach()`, `item()`, `numpy()` and `torch.no_grad()`."
            )
        return result[0], result[1]

    def ranking_loss(self, scores: Sequence[Tensor], batch: TreeBatch) -> LossAndParts:
        """The weighted ranking loss, the mean over one or several sets of scores of the same responses.

        Args:
            scores: tensors of `(K,)`; a critic may rank both at reference critiques and at generated ones.
            batch: of the scores.
        """
        share = unit_share(batch, self.unit)
        # The mean and not the sum, so that ranking two sets does not double the learning rate.
        losses = [self.loss(of_set, batch) for of_set in scores]
        parts: dict[str, Tensor] = {}
        for name in losses[0][1]:
            parts[name] = torch.stack([named[name] for _, named in losses]).mean() * share
        return torch.stack([loss for loss, _ in losses]).mean() * share, parts


def group_share(batch: TreeBatch) -> float:
    """Return the weight of a micro-batch by its number of groups; 1 for a batch that does not know its step.

    Args:
        batch: a micro-batch.

    >>> from types import SimpleNamespace
    >>> group_share(SimpleNamespace(step=None, num_groups=3))
    1.0
    """
    # A plain data loader of the user's own gives batches without totals; each is then a step by itself.
    return 1.0 if batch.step is None else batch.step.group_share(batch.num_groups)


def unit_share(batch: TreeBatch, unit: Unit) -> float:
    """Return the weight of a micro-batch by its number of units of a loss; 1 for a batch that does not know its step.

    Args:
        batch: a micro-batch.
        unit: of the loss.

    >>> from types import SimpleNamespace
    >>> unit_share(SimpleNamespace(step=None), "preference")
    1.0
    """
    if batch.step is None:
        return 1.0
    # Every training group counts, so nothing has to be counted on the device.
    if unit == "group":
        return batch.step.group_share(batch.num_groups)
    return batch.step.unit_share(count_units(unit, batch.preferences.counts))


def build_objective(node: Node | None, *, loss: PreferenceLoss, head: nn.Module) -> Objective:
    """Build the objective of a recipe.

    Args:
        node: section `objective` of the recipe; None for the one that the head needs.
        loss: the ranking loss.
        head: of the model.

    Raises:
        RecipeError: the node has a fault.
        ModelError: the object is no `Objective`, or it cannot train the head.

    >>> type(build_objective(None, loss=PreferenceLoss(), head=nn.Linear(8, 1))).__name__
    'Ranking'
    """
    objective = _make(node or {"_target_": objective_of(head)}, loss)
    objective.check_head(head)
    return objective


def objective_unit(node: Node | None, *, loss: PreferenceLoss) -> Unit:
    """Return the unit that the data module counts for an objective.

    The data are read before the model, so the head is not known here. Without a node the unit is that of the loss for
    every head.

    Args:
        node: section `objective` of the recipe, or None.
        loss: the ranking loss.

    Raises:
        RecipeError: the node has a fault.
        ModelError: the object is no `Objective`.

    >>> objective_unit({"_target_": "ranking"}, loss=PreferenceLoss())
    'group'
    """
    return loss.unit if node is None else _make(node, loss).unit


def _make(node: Node, loss: PreferenceLoss) -> Objective:
    objective = make(node, "objectives", loss)
    if not isinstance(objective, Objective):
        raise ModelError(
            f"objective '{type(objective).__name__}' is no Objective: derive the class from "
            "`basereward.training.objectives.contracts.Objective`."
        )
    check_initialized(objective, "objective")
    if not isinstance(getattr(objective, "loss", None), PreferenceLoss):
        raise ModelError(
            f"objective '{type(objective).__name__}' has no loss: call `super().__init__(loss)` in its `__init__`."
        )
    return objective


def objective_of(head: nn.Module) -> str:
    """Return the name of the objective that a head is trained with by default.

    Args:
        head: of the model.

    >>> objective_of(nn.Linear(8, 1))
    'ranking'
    """
    if not isinstance(head, GenerativeHead):
        return "ranking"
    return "critique_ranking" if head.rank_reference or head.rank_generated else "language_modeling"


def mismatch(objective: Objective, head: nn.Module, *, needs: str) -> ModelError:
    """The error for an objective that cannot train a head; it names the objective that can.

    Args:
        objective: that was asked for.
        head: of the model.
        needs: what the objective trains.

    >>> str(mismatch(Objective(PreferenceLoss()), nn.Linear(8, 1), needs="generative heads"))
    "objective 'Objective' trains generative heads, and the head is a Linear. Set objective=null or ...=ranking."
    """
    return ModelError(
        f"objective '{type(objective).__name__}' trains {needs}, and the head is a {type(head).__name__}. Set "
        f"objective=null or objective._target_={objective_of(head)}."
    )
