"""Advantages of the tokens of rollouts: returns, standardisation over all ranks, and the filter.

Shapes: N rollouts, T tokens of the longest one. Masks are 1 for a rollout's own tokens and 0 for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

FilterVariant: TypeAlias = Literal["paper", "code", "off"]
SumOverRanks: TypeAlias = Callable[[Tensor], Tensor]
"""Adds a tensor over all ranks; every rank gets the sum."""

# The filter keeps an advantage of at most three standard deviations, and its released code none beyond ten.
FILTER_DEVIATIONS = 3.0
CODE_LIMIT = 10.0
MIN_VARIANCE = 1e-8


def one_rank(values: Tensor) -> Tensor:
    """The sum over the ranks of a process without others: the values themselves.

    >>> one_rank(torch.tensor(2.0))
    tensor(2.)
    """
    return values


class Standardised(NamedTuple):
    """Advantages in standard deviations.

    Attributes:
        values: `(N, T)`; 0 at padding.
        mean: of the raw returns, over all tokens of all ranks.
        std: of the raw returns, after the floor of the variance.
    """

    values: Tensor
    mean: float
    std: float


def token_returns(rewards: Tensor, mask: Tensor, *, kl: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """The return of every token: the sum of the rewards from this token on, without a baseline.

    A token's reward is `-beta * kl`. The reward of the rollout is added at its last token.

    Args:
        rewards: `(N,)`, of whole rollouts.
        mask: `(N, T)`.
        kl: `(N, T)`, estimates of the divergence from the reference model; None: no penalty.
        beta: weight of the penalty.

    Returns:
        `(N, T)`; 0 at padding and in rollouts without tokens.

    >>> kl = torch.tensor([[0.5, 1.0, 9.0]])
    >>> token_returns(torch.tensor([2.0]), torch.tensor([[1, 1, 0]]), kl=kl, beta=0.1)
    tensor([[1.8500, 1.9000, 0.0000]])
    """
    own = mask.to(rewards.dtype)
    penalties = torch.zeros_like(own) if kl is None else -beta * kl.to(rewards.dtype) * own
    # Padding after the last token has neither reward nor penalty, so its place does not matter: the sum from a token
    # to the end of the row is the sum to the last token.
    sums = penalties.flip(-1).cumsum(-1).flip(-1)
    # `where`, because a rollout that is masked as a whole may have the reward NaN.
    return torch.where(own > 0, sums + rewards[:, None], 0.0)


def standardise(returns: Tensor, mask: Tensor, *, sum_over_ranks: SumOverRanks = one_rank) -> Standardised:
    """Subtract the mean and divide by the standard deviation of all tokens of all ranks.

    The variance is the population's and has the floor `MIN_VARIANCE`: equal returns give advantages of 0.

    Args:
        returns: `(N, T)`.
        mask: `(N, T)`; tokens with 0 count in no sum.
        sum_over_ranks: adds a tensor over all ranks. Every rank must call this function, and all get one mean.

    >>> returns = torch.ones(256, 1)
    >>> returns[0] = 0
    >>> [round(z, 2) for z in standardise(returns, torch.ones(256, 1)).values[:2, 0].tolist()]
    [-15.97, 0.06]
    """
    own = mask.double()
    values = returns.double()
    # A return at a masked place may be anything, NaN included, and NaN * 0 is NaN.
    values = values.masked_fill(own == 0, 0.0)
    total = sum_over_ranks(torch.stack([values.sum(), own.sum()]))
    count = total[1].clamp(min=1.0)
    mean = total[0] / count
    # In two passes: the mean of squares minus the square of the mean loses the digits of a small variance.
    deviations = (values - mean) * own
    variance = sum_over_ranks(deviations.square().sum()) / count
    std = variance.clamp(min=MIN_VARIANCE).sqrt()
    return Standardised((deviations / std).to(returns.dtype), mean.item(), std.item())


def kept(advantages: Standardised, variant: FilterVariant) -> Tensor:
    """Whether each advantage passes the filter; what does not is set to 0.

    `paper` keeps |z| <= 3. `code` keeps z within 3 of the *raw* mean return, and |z| <= 10, as the code that was
    released with the paper does: with rewards 2.0 for right and 0.5 for wrong answers, at 70 % right and more, it drops
    every wrong answer. `off` keeps all.

    Returns:
        `(N, T)`, boolean.

    >>> kept(Standardised(torch.tensor([[-2.0, 0.5]]), mean=1.7, std=0.6), "code")
    tensor([[False,  True]])
    >>> kept(Standardised(torch.tensor([[-2.0, 0.5]]), mean=1.7, std=0.6), "paper")
    tensor([[True, True]])
    """
    values = advantages.values
    if variant == "off":
        return torch.ones_like(values, dtype=torch.bool)
    if variant == "paper":
        return values.abs() <= FILTER_DEVIATIONS
    return ((values - advantages.mean).abs() <= FILTER_DEVIATIONS) & (values.abs() <= CODE_LIMIT)
