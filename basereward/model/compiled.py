"""The layers of a language model through torch.compile."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AttentionInterface

from basereward.model.attention import TREE_ATTENTION, tree_attention
from basereward.model.parts import decoder_layers


def compile_layers(transformer: nn.Module) -> None:
    """Compiles every decoder layer, in place: names of weights stay what they are.

    One piece of code serves all layers and all lengths of rows. Attention stays outside of it: a row's prefixes and
    branches are other ones every step, and each new division of the row would be compiled anew.

    Args:
        transformer: with its adapters, if any.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))  # type: ignore[no-untyped-call]
    for layer in decoder_layers(transformer):
        layer.compile(dynamic=True)
