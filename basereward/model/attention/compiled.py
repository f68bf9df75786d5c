"""Compiles the layers of a language model with torch.compile."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from basereward.model.attention.last_layer import restricted_layer
from basereward.model.families.parts import decoder_layers


def compile_layers(transformer: nn.Module) -> None:
    """Compiles decoder layers in place; the names of weights do not change.

    One compiled function serves all layers and all lengths of rows. Attention over tree rows is excluded; see
    `register_tree_attention`. So is the last layer where it is restricted to pooled tokens: it computes little, and
    would be compiled again for other numbers of pooled tokens, such as a single one.

    Args:
        transformer: with its adapters, if any.
    """
    restricted = restricted_layer(transformer)
    for index, layer in enumerate(decoder_layers(transformer)):
        if index == restricted:
            continue
        class_forward: Any = type(layer).forward
        # transformers wraps `forward` in decorators that are not compiled; the function itself is in `__wrapped__`.
        # `dynamic` avoids a new compilation for every length of a row.
        inner = torch.compile(getattr(class_forward, "__wrapped__", class_forward), dynamic=True)

        # `inner` is a default argument: a closure would see the function of the last layer in every layer.
        def forward(self: Any, *inputs: Any, _inner: Any = inner, **options: Any) -> Any:
            compiled = partial(_inner, self, **options)
            # Gradient checkpointing stays outside of the compiled function: inside it, graph breaks are an error.
            if self.gradient_checkpointing and self.training:
                return self._gradient_checkpointing_func(compiled, *inputs)
            return compiled(*inputs)

        # Set on the object and not on its class, so that other models in the process are not compiled. A module is
        # called through `__call__`, which reads this attribute; the names of its weights stay as they are.
        layer.forward = MethodType(forward, layer)
