"""The head of BaseReward: a small multi-layer perceptron."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor, nn

ACTIVATIONS = {"none": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class MLP(nn.Module):
    """Linear layers with activations between them; two layers with SiLU are the best head of BaseReward, Table 2.

    Args:
        hidden_size: width D of the backbone's hidden states.
        layers: number of linear layers; one layer is a linear head.
        activation: after every layer but the last.
        width: of the hidden layers, which the paper does not state; None: `hidden_size`.
        dropout: before every layer but the first.

    >>> sum(p.numel() for p in MLP(8, layers=2, width=4).parameters())  # (8 * 4 + 4) + (4 + 1)
    41
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        layers: Annotated[int, Interval(ge=1, le=64)] = 2,
        activation: Literal["none", "tanh", "relu", "silu"] = "silu",
        width: Annotated[int, Interval(ge=1, le=131_072)] | None = None,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        width = width or hidden_size
        modules: list[nn.Module] = []
        for index in range(layers - 1):
            modules += [self.hidden_layer(hidden_size if index == 0 else width, width), ACTIVATIONS[activation]()]
            if dropout:
                modules.append(nn.Dropout(dropout))
        modules.append(self.output_layer(hidden_size if layers == 1 else width))
        self.layers = nn.Sequential(*modules)

    @staticmethod
    def hidden_layer(inputs: int, outputs: int) -> nn.Linear:
        """A linear layer that preserves the variance of its inputs, whatever the depth of the head."""
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
        nn.init.zeros_(layer.bias)
        return layer

    @staticmethod
    def output_layer(inputs: int, *, bias: bool = True) -> nn.Linear:
        """The last layer. Initial scores have a spread of about one, so that no sigmoid of a margin is saturated."""
        layer = nn.Linear(inputs, 1, bias=bias)
        nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs + 1))
        if bias:
            nn.init.zeros_(layer.bias)
        return layer

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps hidden states `(B, D)` in float32 to scores `(B,)`."""
        scores: Tensor = self.layers(pooled).squeeze(-1)
        return scores
