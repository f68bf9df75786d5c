"""Gradient checkpointing: the backward pass computes the activations of a layer again instead of storing them."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from basereward.errors import ModelError
from basereward.model.families.parts import decoder_layers


def enable_gradient_checkpointing(transformer: PreTrainedModel, *, layers: int | Literal["auto"] | None = None) -> None:
    """Makes layers store only their inputs in training; the gradients are bitwise the same.

    Args:
        transformer: its vision tower, if any, checkpoints every layer.
        layers: number of layers of the language model that do so, from the first; None: all; `auto`: all, until
            `checkpoint_first_layers` chooses their number.

    Raises:
        ModelError: the language model has fewer layers, or its family checkpoints all layers or none.
    """
    decoder = decoder_layers(transformer)
    if isinstance(layers, int) and layers > len(decoder):
        raise ModelError(f"model.backbone.checkpoint_layers is {layers}; the language model has {len(decoder)} layers")
    if layers is not None and not all(isinstance(layer, GradientCheckpointingLayer) for layer in decoder):
        raise ModelError(
            f"model.backbone.checkpoint_layers is {layers}; layers of a {transformer.config.model_type} model are "
            "checkpointed together or not at all. Set it to null."
        )
    model: Any = transformer
    # The tree attention gets its plan as a keyword of the layer, so a layer that is computed again sees the same plan.
    # transformers 5.23 renamed the method, and the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    # Reentrant checkpoints need an input with a gradient, which frozen embeddings do not give.
    enable({"use_reentrant": False})
    need_no_input_gradients(transformer)
    # transformers enables all layers at once, so those after the first `layers` are turned off again.
    if isinstance(layers, int):
        checkpoint_first_layers(transformer, layers)


def checkpoint_first_layers(transformer: nn.Module, layers: int) -> None:
    """Lets the first layers of the language model store only their inputs, and the others all activations.

    Args:
        transformer: after `enable_gradient_checkpointing`.
        layers: their number.
    """
    for index, layer in enumerate(decoder_layers(transformer)):
        layer.gradient_checkpointing = index < layers


def need_no_input_gradients(transformer: nn.Module) -> None:
    """Removes the gradient of the embeddings' output, which transformers and peft require for reentrant checkpoints.

    The checkpoints here are not reentrant. With frozen embeddings nothing reads that gradient, and it costs a backward
    pass to the input of the first layer.

    Args:
        transformer: a model of transformers.
    """
    model: Any = transformer
    model.disable_input_require_grads()
