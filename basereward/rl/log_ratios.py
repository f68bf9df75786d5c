"""The pre-clip of the log ratio of a policy, and the k1 estimate of the KL divergence."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import Tensor

RatioBounds: TypeAlias = tuple[float, float]
"""The smallest and the largest ratio of the probabilities of a token under the new and the old policy."""

BOUNDS: RatioBounds = (1e-3, 1e3)


def pre_clipped(log_ratio: Tensor, bounds: RatioBounds = BOUNDS) -> Tensor:
    """The log ratio limited before its exponential is taken; outside the limits it has no gradient.

    Without it, exp of a large log ratio overflows, or one token with a negative advantage outweighs all others.

    >>> import torch
    >>> pre_clipped(torch.tensor([40.0, 0.5, -40.0]))
    tensor([ 6.9078,  0.5000, -6.9078])
    """
    low, high = bounds
    return log_ratio.clamp(math.log(low), math.log(high))


def kl_k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The estimate log p - log q of the divergence of p from q, for tokens drawn from p; single values may be negative.

    >>> import torch
    >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
    tensor([0.5000])
    """
    return log_probs - reference
