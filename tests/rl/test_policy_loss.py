"""Test the pre-clip and the loss of a policy, with gradients, against a float64 reference written from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from basereward.rl.policy_loss import kl_k3, policy_loss, pre_clipped


def test_log_ratio_40_becomes_the_bound_without_gradient() -> None:
    """ln 1000 = 6.9078 has no gradient; a ratio within the bounds passes unchanged with gradient 1."""
    log_ratio = torch.tensor([40.0, -40.0, 2.0], requires_grad=True)
    clipped = pre_clipped(log_ratio)
    clipped.sum().backward()
    assert clipped.tolist() == pytest.approx([6.9078, -6.9078, 2.0], abs=5e-5)
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [0.0, 0.0, 1.0]


def reference(
    new: np.ndarray, old: np.ndarray, z: np.ndarray, lengths: list[int], *, bound: float, beta: float, ref: np.ndarray
) -> tuple[float, np.ndarray]:
    """The loss and its gradient by loops over the formulas, in float64.

    d = clamp(new - old), rho = e^d. The loss of a token is -min(rho z, clip(rho, 0.8, 1.2) z) + beta k3. Its gradient
    is -rho z where the unclipped term is the smaller one and d is within its bounds, plus beta (1 - e^(ref - new)).
    """
    loss, gradient = 0.0, np.zeros_like(new)
    rows = len(lengths)
    for i, length in enumerate(lengths):
        for t in range(length):
            raw = new[i, t] - old[i, t]
            d = min(max(raw, -bound), bound)
            rho = math.exp(d)
            plain, limited = rho * z[i, t], min(max(rho, 0.8), 1.2) * z[i, t]
            apart = ref[i, t] - new[i, t]
            token = -min(plain, limited) + beta * (math.exp(apart) - apart - 1)
            slope = -rho * z[i, t] if plain <= limited and abs(raw) < bound else 0.0
            slope += beta * (1 - math.exp(apart))
            loss += token / length / rows
            gradient[i, t] = slope / length / rows
    return loss, gradient


@pytest.mark.parametrize(
    ("bound", "beta"), [pytest.param(math.log(1e3), 0.0, id="stable"), pytest.param(math.inf, 0.04, id="grpo")]
)
def test_loss_and_gradient_equal_the_formulas(bound: float, beta: float) -> None:
    """For ratios on both sides of both clips, advantages of both signs and rollouts of different lengths."""
    rng = np.random.default_rng(0)
    lengths = [7, 1, 4]
    old = -rng.uniform(0.1, 4, (3, 7))
    new = old + rng.normal(0, 0.4, (3, 7))
    if beta == 0:
        # Beyond the bounds of the pre-clip, with both signs of the advantage.
        new[0, :4] = old[0, :4] + np.array([9.9, 9.9, -9.9, -9.9])
    ref = new + rng.normal(0, 0.3, (3, 7))
    z = rng.normal(0, 1, (3, 7))
    z[0, :4] = [1.0, -1.0, 1.0, -1.0]
    loss, gradient = reference(new, old, z, lengths, bound=bound, beta=beta, ref=ref)
    log_probs = torch.tensor(new, requires_grad=True)
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    bounds = None if bound == math.inf else (1e-3, 1e3)
    ours = policy_loss(
        log_probs, torch.tensor(old), torch.tensor(z), mask, bounds=bounds, reference=torch.tensor(ref), beta=beta
    )
    ours.backward()  # type: ignore[no-untyped-call]
    assert ours.item() == pytest.approx(loss, rel=1e-12)
    assert log_probs.grad is not None
    np.testing.assert_allclose(log_probs.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


def test_pre_clip_bounds_the_loss_of_the_papers_example() -> None:
    """A gap of 9.9 with advantage -1 costs e^9.9, about 2e4; with the pre-clip at most 1000."""
    gap, old, z, mask = torch.tensor([[9.9]]), torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1)
    assert policy_loss(gap, old, z, mask, bounds=None).item() == pytest.approx(math.exp(9.9), rel=1e-5)
    assert policy_loss(gap, old, z, mask).item() == pytest.approx(1000, rel=1e-5)


def test_infinite_loss_at_padding_counts_nothing() -> None:
    """Only a rollout's own tokens are in the mean; a rollout without tokens is 0 and in the number of rollouts."""
    log_probs = torch.tensor([[0.0, 500.0], [500.0, 500.0]], requires_grad=True)
    mask = torch.tensor([[1, 0], [0, 0]])
    loss = policy_loss(log_probs, torch.zeros(2, 2), -torch.ones(2, 2), mask, bounds=None)
    assert loss.item() == 0.5


def test_k3_is_zero_for_equal_models_and_never_negative() -> None:
    """Its smallest value is at q = p."""
    log_probs = torch.linspace(-5, -0.1, 50)
    assert kl_k3(log_probs, log_probs).abs().max() == 0
    assert (kl_k3(log_probs, log_probs.flip(0)) >= 0).all()
