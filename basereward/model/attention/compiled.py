"""The layers of a language model through torch.compile."""

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
    """Compiles every decoder layer, in place: names of weights stay what they are.

    One piece of code serves all layers and all lengths of rows. Attention stays outside of it: a row's prefixes and
    branches are other ones every step, and each new division of the row would be compiled anew.

    Args:
        transformer: with its adapters, if any.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))  # type: ignore[no-untyped-call]
    for layer in decoder_layers(transformer):
        work: Any = type(layer).forward
        # What computes a layer again stays around the compiled code: inside, it forbids the pause for attention.
        inner = torch.compile(getattr(work, "__wrapped__", work), dynamic=True)

        def forward(self: Any, *inputs: Any, _inner: Any = inner, **options: Any) -> Any:
            compiled = partial(_inner, self, **options)
            if self.gradient_checkpointing and self.training:
                return self._gradient_checkpointing_func(compiled, *inputs)
            return compiled(*inputs)

        layer.forward = MethodType(forward, layer)
