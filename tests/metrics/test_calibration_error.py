"""The calibration error equals hand arithmetic and a plain reimplementation over the rows."""

from __future__ import annotations

import math

import pytest
import torch

from basereward.metrics.calibration_error import CalibrationError


def margin(confidence: float) -> float:
    """The margin whose sigmoid is this confidence."""
    return math.log(confidence / (1 - confidence))


def plainly(margins: list[float], *, bins: int = 15) -> float:
    """Rows sorted into bins of equal width; the gap of each bin weighted by its rows."""
    rows = [(1 / (1 + math.exp(-abs(m))), m > 0) for m in margins]
    total = 0.0
    for b in range(bins):
        inside = [(c, r) for c, r in rows if min(int(c * bins), bins - 1) == b]
        if inside:
            accuracy = sum(r for _, r in inside) / len(inside)
            total += len(inside) * abs(accuracy - sum(c for c, _ in inside) / len(inside))
    return total / len(rows)


def test_equals_hand_arithmetic() -> None:
    """Five calls at 0.8 of which three are right, and one at 0.95 that is wrong: (5 * 0.2 + 1 * 0.95) / 6."""
    sure = margin(0.8)
    metric = CalibrationError()
    metric.update(torch.tensor([sure, sure, sure, -sure, -sure, -margin(0.95)]))
    assert float(metric.compute()) == pytest.approx((5 * 0.2 + 0.95) / 6, abs=1e-5)


def test_equals_a_plain_count_and_leaves_ties_out() -> None:
    """500 random margins in three batches equal the count over rows; rows marked as ties change nothing."""
    margins = torch.randn(500, generator=torch.Generator().manual_seed(3)) * 1.5 + 0.4
    ties = torch.arange(500) % 7 == 0
    metric = CalibrationError()
    for part, tied in zip(margins.split([11, 400, 89]), ties.split([11, 400, 89]), strict=True):
        metric.update(part, ties=tied)
    assert float(metric.compute()) == pytest.approx(plainly(margins[~ties].tolist()), abs=1e-5)


def test_large_margins_are_taken_as_margins_not_as_probabilities() -> None:
    """A margin of 0.5 is no probability, nor is 50: sure and right has the error 0, sure and wrong has 1."""
    metric = CalibrationError()
    metric.update(torch.tensor([50.0, 60.0]))
    assert float(metric.compute()) == pytest.approx(0.0, abs=1e-6)
    metric.reset()
    metric.update(torch.tensor([-50.0, -60.0]))
    assert float(metric.compute()) == pytest.approx(1.0, abs=1e-6)
    metric.reset()
    metric.update(torch.tensor([0.5, 0.5]))
    assert float(metric.compute()) == pytest.approx(1 - 1 / (1 + math.exp(-0.5)), abs=1e-6)
