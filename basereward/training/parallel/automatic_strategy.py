"""Chooses the strategy for `trainer.strategy=auto`: DDP, or FSDP2 if a whole model does not fit on a device."""

from __future__ import annotations

import dataclasses
import logging
from typing import Literal

from basereward.data.module import PreferenceData
from basereward.errors import BaseRewardError
from basereward.model.reward_model import RewardModel
from basereward.recipe.checks.parallel import num_ranks
from basereward.recipe.schema import Recipe
from basereward.training.checks.model import training_device
from basereward.training.cost.run_memory import chosen_strategy, count_memory
from basereward.training.parallel.collectives import broadcast, is_first

logger = logging.getLogger(__name__)


def with_strategy(recipe: Recipe, model: RewardModel, data: PreferenceData) -> Recipe:
    """Return a recipe with the strategy for this machine. All processes take the choice of the first one.

    Args:
        recipe: of the run.
        model: loaded.
        data: after `setup`.
    """
    if recipe.trainer.strategy != "auto" or num_ranks(recipe) == 1:
        return recipe
    # By the first process alone: devices of different sizes would lead to different decisions.
    strategy = broadcast(_strategy(recipe, model, data) if is_first() else "ddp")
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, strategy=strategy))


def _strategy(recipe: Recipe, model: RewardModel, data: PreferenceData) -> Literal["ddp", "fsdp2"]:
    device = training_device(recipe)
    # Processes on a CPU share its memory, and counting takes a second.
    if device.type != "cuda":
        return "ddp"
    try:
        held = count_memory(recipe, model, data)
    except BaseRewardError as error:
        logger.info("strategy: ddp, because the memory cannot be counted: %s", error)
        return "ddp"
    return "ddp" if held is None else chosen_strategy(recipe, held, device)
