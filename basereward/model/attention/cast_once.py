"""Casts the input of attention and of feed-forward networks once under autocast.

Autocast casts the input of every linear layer by itself: three times the same states for queries, keys and values, and
twice for a gated feed-forward network; and each copy is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHARED_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"})
"""Names of linear layers, by which modules are known whose input several linear layers and nothing else read."""


def cast_inputs_once(transformer: nn.Module) -> None:
    """Registers the cast on every attention and gated feed-forward network of a transformer.

    Scores do not change. In the backward pass the gradients of the shared input are added in the precision of autocast
    and not in float32.

    Args:
        transformer: with or without adapters.

    >>> cast_inputs_once(nn.Linear(2, 2))  # has no such modules
    """
    for module in transformer.modules():
        names = {name for name, _ in module.named_children()}
        if any(shared <= names for shared in SHARED_INPUT):
            module.register_forward_pre_hook(_cast, with_kwargs=True)


def _cast(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """Cast `hidden_states`, the first input; outside of autocast nothing changes."""
    states: Tensor = inputs[0] if inputs else kwargs["hidden_states"]
    device = states.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    cast = states.to(torch.get_autocast_dtype(device))
    if inputs:
        return (cast, *inputs[1:]), kwargs
    return inputs, {**kwargs, "hidden_states": cast}
