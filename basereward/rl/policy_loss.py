"""The loss of a policy: the pre-clip of the log ratio, the clipped surrogate, and estimates of the KL divergence.

`policy_loss` is the formula as a function, for a policy outside TRL. `JudgeTrainer` has the same loss from TRL's
GRPOTrainer, and uses `pre_clipped` and the estimates.

Shapes: N rollouts, T tokens of the longest one.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

RatioBounds: TypeAlias = tuple[float, float]
"""The smallest and the largest ratio of the probabilities of a token under the new and the old policy."""

BOUNDS: RatioBounds = (1e-3, 1e3)


def pre_clipped(log_ratio: Tensor, bounds: RatioBounds = BOUNDS) -> Tensor:
    """The log ratio limited before its exponential is taken; outside the limits it has no gradient.

    Without it, exp of a large log ratio overflows, or one token with a negative advantage outweighs all others.

    >>> pre_clipped(torch.tensor([40.0, 0.5, -40.0]))
    tensor([ 6.9078,  0.5000, -6.9078])
    """
    low, high = bounds
    return log_ratio.clamp(math.log(low), math.log(high))


def kl_k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The estimate log p - log q of the divergence of p from q, for tokens drawn from p; single values may be negative.

    >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
    tensor([0.5000])
    """
    return log_probs - reference


def kl_k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The estimate q/p - 1 - log(q/p), which is never negative: GRPO's penalty in the loss.

    >>> kl_k3(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]))
    tensor([0.0000, 0.7183])
    """
    log_ratio = reference - log_probs
    return log_ratio.exp() - log_ratio - 1


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens of each rollout, and then over rollouts; a rollout without tokens counts as 0.

    Args:
        values: `(N, T)`.
        mask: `(N, T)`.

    >>> masked_mean(torch.tensor([[1.0, 3.0], [4.0, 9.0]]), torch.tensor([[1, 1], [1, 0]]))
    tensor(3.)
    """
    own = mask.to(values.dtype)
    # `where`, because a loss at padding may be infinite.
    sums = torch.where(own > 0, values, 0.0).sum(-1)
    return (sums / own.sum(-1).clamp(min=1.0)).mean()


def policy_loss(
    log_probs: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    bounds: RatioBounds | None = BOUNDS,
    reference: Tensor | None = None,
    beta: float = 0.0,
) -> Tensor:
    """The loss of StableReinforce, and with other settings of REINFORCE++ and GRPO.

    With d = clamp(log p - log p_old) and rho = exp(d), a token's loss is -min(rho A, clip(rho, 1 - c, 1 + c) A), plus
    `beta` times its KL estimate k3 if there is a reference. The mean is over a rollout's tokens, then over rollouts.

    Args:
        log_probs: `(N, T)`, of the tokens under the policy that learns.
        old: `(N, T)`, under the policy that wrote them.
        advantages: `(N, T)`, filtered.
        mask: `(N, T)`.
        clip: c, how far the ratio may leave 1.
        bounds: of the pre-clip; None: no pre-clip.
        reference: `(N, T)`, log-probabilities under the reference model, for a penalty in the loss. StableReinforce has
            the penalty in its returns instead.
        beta: weight of the penalty.

    >>> one = torch.ones(1, 1)
    >>> policy_loss(torch.log(2 * one), 0 * one, one, one)  # the ratio 2 counts as 1.2
    tensor(-1.2000)
    """
    log_ratio = log_probs - old
    ratio = (log_ratio if bounds is None else pre_clipped(log_ratio, bounds)).exp()
    losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    if reference is not None and beta:
        losses = losses + beta * kl_k3(log_probs, reference)
    return masked_mean(losses, mask)
