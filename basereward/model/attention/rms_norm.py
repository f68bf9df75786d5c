"""The root mean square norm with a gradient in few passes over the states (arXiv 1910.07467).

Autograd takes a dozen passes for the gradient of transformers' formula and keeps three intermediate results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Divide states by the root of the mean of their squares, and multiply by a weight.

    Args:
        states: `(..., D)`.
        weight: `(D,)`.
        epsilon: added to the mean.

    Returns:
        `(..., D)`, computed in float32 and rounded to the precision of `states` before the multiplication by `weight`,
        as in transformers; differentiable once.

    >>> rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0) * 12.5**0.5
    tensor([3., 8.])
    """
    normed: Tensor = _RmsNorm.apply(states, weight, epsilon)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        in_float32 = states.float()
        mean_square = _dot(in_float32, in_float32) / states.shape[-1]
        scale = (mean_square + epsilon).rsqrt()
        ctx.save_for_backward(states, weight, scale)
        normed = (in_float32 * scale).to(states.dtype)
        return normed.mul_(weight) if weight.dtype == normed.dtype else normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, scale = ctx.saved_tensors
        in_float32, grad = states.float(), grads[0].float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * in_float32 * scale).flatten(0, -2).sum(0).to(weight.dtype)
        grad_states = None
        if ctx.needs_input_grad[0]:
            # With y = x * s * w and s = (mean(x^2) + e)^(-1/2): dx = s * (g w) - x * s^3 * mean(g w x).
            weighted = grad * weight.float()
            along = _dot(weighted, in_float32) * scale.pow(3) / states.shape[-1]
            grad_states = weighted.mul_(scale).addcmul_(in_float32, along, value=-1).to(states.dtype)
        return grad_states, grad_weight, None


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """The products of vectors `(..., D)` in float32, as `(..., 1)`."""
    # torch multiplies them as matrices, which autocast would do in half precision.
    with torch.autocast(left.device.type, enabled=False):
        products: Tensor = torch.linalg.vecdot(left, right)
    return products[..., None]
