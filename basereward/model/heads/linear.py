"""The head of most reward models: one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from basereward.model.heads.mlp import MLP


class Linear(nn.Module):
    """One linear layer from the pooled hidden state to the score: the first row of BaseReward, Table 2.

    Args:
        hidden_size: width D of the backbone's hidden states.
        bias: whether to learn an offset. Bradley-Terry cancels it; centring does not.

    >>> sum(parameter.numel() for parameter in Linear(8).parameters())
    9
    """

    def __init__(self, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.score = MLP.output_layer(hidden_size, bias=bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps hidden states `(B, D)` in float32 to scores `(B,)`."""
        scores: Tensor = self.score(pooled).squeeze(-1)
        return scores
