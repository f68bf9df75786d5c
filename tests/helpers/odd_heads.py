"""Heads as people write them, by name in recipes of tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColumnHead(nn.Linear):
    """Scores of shape `(B, 1)`, as heads of transformers have them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)


class OneScoreHead(ColumnHead):
    """One score whatever the batch."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to a scalar."""
        return super().forward(pooled).sum()


class RankHead(ColumnHead):
    """Whole numbers, which have no gradient."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to ranks `(B,)`."""
        return super().forward(pooled).squeeze(-1).argsort()


class NarrowHead(ColumnHead):
    """Made for hidden states of three numbers."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(3)


class AssertingHead(ColumnHead):
    """Wants states with an axis of tokens, and says so without a word."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, T, D)` to scores `(B, 1)`."""
        assert pooled.ndim == 3
        return super().forward(pooled[:, -1])


class StubbornHead(ColumnHead):
    """Raises an error of no particular kind."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Never comes back."""
        raise Exception("not today")


class JudgingHead(nn.Module):
    """A scalar head with helpers that have the names of a generative head's, and dropout in training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def judge(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to scores `(B,)`."""
        return self.score(nn.functional.dropout(pooled, 0.5, self.training)).squeeze(-1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Hidden states `(B, D)` to scores `(B,)`."""
        return torch.tanh(self.judge(pooled))
