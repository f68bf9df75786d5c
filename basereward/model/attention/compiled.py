"""Compiles the layers of a language model with torch.compile."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from basereward.model.attention.tree_attention import TREE_ATTENTION, tree_attention
from basereward.model.families.parts import decoder_layers


def compile_layers(transformer: nn.Module) -> None:
    """Compiles every decoder layer in place; the names of weights do not change.

    One compiled function serves all layers and all lengths of rows. Attention is excluded: the division of a row into
    prefixes and branches changes at every step, and each division would be compiled again.

    Args:
        transformer: with its adapters, if any.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))  # type: ignore[no-untyped-call]
    for layer in decoder_layers(transformer):
        class_forward: Any = type(layer).forward
        # Gradient checkpointing stays outside of the compiled function: inside it, graph breaks are an error.
        inner = torch.compile(getattr(class_forward, "__wrapped__", class_forward), dynamic=True)

        def forward(self: Any, *inputs: Any, _inner: Any = inner, **options: Any) -> Any:
            compiled = partial(_inner, self, **options)
            if self.gradient_checkpointing and self.training:
                return self._gradient_checkpointing_func(compiled, *inputs)
            return compiled(*inputs)

        layer.forward = MethodType(forward, layer)
