"""Chooses how many layers a run checkpoints: as few as the memory of its device allows, by count."""

from __future__ import annotations

from dataclasses import dataclass

from basereward.data.batching.plan import Plan
from basereward.data.module import PreferenceData
from basereward.errors import ModelError, format_bytes
from basereward.model.attention.gradient_checkpointing import checkpoint_first_layers
from basereward.model.cost.memory import PassTokens
from basereward.model.families.parts import decoder_layers
from basereward.model.reward_model import RewardModel
from basereward.recipe.schema import Recipe
from basereward.training.cost.largest_pass import SAMPLED, SEARCHED, largest_pass
from basereward.training.cost.run_memory import USABLE, run_memory


@dataclass(frozen=True, slots=True)
class CheckpointedLayers:
    """A choice of `model.backbone.checkpoint_layers=auto`.

    Attributes:
        layers: how many layers, from the first, store only their inputs.
        of: layers of the language model.
        peak: bytes by count with this choice.
        fewer: bytes by count with one layer less; None: there is none less.
        usable: bytes that the run may use.

    >>> print(CheckpointedLayers(layers=3, of=28, peak=70 * 2**30, fewer=74 * 2**30, usable=72 * 2**30))
    checkpointing: the first 3 of 28 layers; by count the peak is 70 GiB of 72 GiB usable, with 2 layers 74 GiB
    """

    layers: int
    of: int
    peak: int
    fewer: int | None
    usable: int

    def __str__(self) -> str:
        text = (
            f"checkpointing: the first {self.layers} of {self.of} layers; by count the peak is "
            f"{format_bytes(self.peak)} of {format_bytes(self.usable)} usable"
        )
        if self.fewer is not None:
            text += f", with {self.layers - 1} layers {format_bytes(self.fewer)}"
        return text


def choose_checkpointed_layers(
    recipe: Recipe, model: RewardModel, largest: PassTokens, *, available: int
) -> CheckpointedLayers:
    """Choose the fewest checkpointed layers with which the largest pass fits; all of them if it fits with none.

    The choice depends on the recipe, the rows and the device's memory, and not on what else is in that memory.

    Args:
        recipe: of the run.
        model: with gradient checkpointing.
        largest: the size of the largest forward pass.
        available: memory of the device, in bytes.

    Raises:
        ModelError: the model has layers that the count does not know.
    """
    total, usable = len(decoder_layers(model.backbone.transformer)), int(USABLE * available)
    peak, fewer = run_memory(recipe, model, largest, checkpointed=0).peak, None
    layers = 0
    while peak > usable and layers < total:
        layers += 1
        peak, fewer = run_memory(recipe, model, largest, checkpointed=layers).peak, peak
    return CheckpointedLayers(layers, total, peak, fewer, usable)


def checkpoint_automatically(recipe: Recipe, model: RewardModel, data: PreferenceData, *, available: int) -> str:
    """Apply `model.backbone.checkpoint_layers=auto` to a model, and say what was chosen.

    Args:
        recipe: of the run.
        model: with gradient checkpointing of all layers.
        data: after `setup`.
        available: memory of the run's device, in bytes.
    """
    if not isinstance(data.plan, Plan):
        return "checkpointing: all layers, because the lengths of streamed rows are not known"
    largest = largest_pass(data, model.pooling, sampled=SAMPLED, searched=SEARCHED)
    try:
        choice = choose_checkpointed_layers(recipe, model, largest, available=available)
    except ModelError as error:
        return f"checkpointing: all layers, because their memory cannot be counted: {error}"
    checkpoint_first_layers(model.backbone.transformer, choice.layers)
    return str(choice)
