"""Unusual heads for recipes of tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColumnHead(nn.Linear):
    """Return scores of shape `(B, 1)`, like heads of transformers."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)


class OneScoreHead(ColumnHead):
    """Return one score for the whole batch."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to a scalar."""
        return super().forward(pooled).sum()


class RankHead(ColumnHead):
    """Return integer ranks, which have no gradient."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to ranks `(B,)`."""
        return super().forward(pooled).squeeze(-1).argsort()


class NarrowHead(ColumnHead):
    """Accept only hidden states of size three."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(3)


class AssertingHead(ColumnHead):
    """Assert a token axis without an error message."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, T, D)` to scores `(B, 1)`."""
        assert pooled.ndim == 3
        return super().forward(pooled[:, -1])


class StubbornHead(ColumnHead):
    """Raise a plain `Exception`."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Always raise."""
        raise Exception("not today")


class JudgingHead(nn.Module):
    """A scalar head with dropout whose method `judge` has the name of a generative head's method."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def judge(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(B,)`."""
        return self.score(nn.functional.dropout(pooled, 0.5, self.training)).squeeze(-1)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(B,)`."""
        return torch.tanh(self.judge(pooled))


class SqueezedHead(ColumnHead):
    """Give a scalar for one state, because a bare `squeeze` removes the axis of the batch too."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(B,)`, or `()` for one state."""
        return super().forward(pooled).squeeze()


class FirstTwoHead(ColumnHead):
    """Give at most two scores."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(min(B, 2),)`."""
        return super().forward(pooled).squeeze(-1)[:2]


class DetachedHead(ColumnHead):
    """Give scores without gradients."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(B,)`."""
        return super().forward(pooled).squeeze(-1).detach()


class UninitializedHead(nn.Module):
    """Leave out the constructor of the base class, and have no weights that would notice."""

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size

    def forward(self, pooled: Tensor) -> Tensor:
        """Map hidden states `(B, D)` to scores `(B,)`."""
        return pooled.sum(-1)


class UninitializedLinearHead(nn.Module):
    """Leave out the constructor of the base class before a weight is assigned."""

    def __init__(self, hidden_size: int) -> None:
        self.score = nn.Linear(hidden_size, 1)
