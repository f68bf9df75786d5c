"""Test the pre-clip of log ratios. test_judge_trainer.py tests the loss with it against its formulas in float64."""

from __future__ import annotations

import pytest
import torch

from basereward.rl.log_ratios import pre_clipped


def test_log_ratio_40_becomes_the_bound_without_gradient() -> None:
    """ln 1000 = 6.9078 has no gradient; a ratio within the bounds passes unchanged with gradient 1."""
    log_ratio = torch.tensor([40.0, -40.0, 2.0], requires_grad=True)
    clipped = pre_clipped(log_ratio)
    clipped.sum().backward()
    assert clipped.tolist() == pytest.approx([6.9078, -6.9078, 2.0], abs=5e-5)
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [0.0, 0.0, 1.0]
