"""Activations that the backward pass computes again, layer by layer, in place of keeping them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from basereward.errors import ModelError
from basereward.model.families.parts import decoder_layers


def recompute(transformer: PreTrainedModel, *, layers: int | None = None) -> None:
    """Layers keep their inputs alone in training, and their gradients stay what they are, bit for bit.

    Args:
        transformer: whose vision tower, where there is one, does so in every layer.
        layers: how many layers of the language model do so, counted from the first; None: all.

    Raises:
        ModelError: there are fewer layers, or they cannot be chosen one by one.
    """
    decoder = decoder_layers(transformer)
    if layers is not None and layers > len(decoder):
        raise ModelError(f"model.backbone.checkpoint_layers is {layers}; the language model has {len(decoder)} layers")
    if layers is not None and not all(isinstance(layer, GradientCheckpointingLayer) for layer in decoder):
        raise ModelError(
            f"model.backbone.checkpoint_layers is {layers}; layers of a {transformer.config.model_type} model are "
            "checkpointed together or not at all. Set it to null."
        )
    model: Any = transformer
    # The name is another one from transformers 5.23 on, where the older one warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    need_no_input_gradients(transformer)
    for layer in decoder[layers:] if layers is not None else ():
        layer.gradient_checkpointing = False


def need_no_input_gradients(transformer: nn.Module) -> None:
    """Takes back what transformers and peft do for reentrant checkpoints: the embeddings' output would get a gradient,
    at the cost of a backward pass through the first layer's inputs, which nobody reads when embeddings are frozen."""
    model: Any = transformer
    model.disable_input_require_grads()
