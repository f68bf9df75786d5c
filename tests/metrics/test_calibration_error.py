"""The calibration error, against arithmetic by hand and a plain implementation."""

from __future__ import annotations

import math

import pytest
import torch

from basereward.metrics.calibration_error import CalibrationError


def margin(confidence: float) -> float:
    """Return the margin whose sigmoid is this confidence."""
    return math.log(confidence / (1 - confidence))


def calibration_error_in_python(margins: list[float], *, bins: int = 15) -> float:
    """Return the error in plain Python: rows in bins of equal width, the gap of each bin weighted by its rows."""
    rows = [(1 / (1 + math.exp(-abs(m))), m > 0) for m in margins]
    total = 0.0
    for b in range(bins):
        rows_in_bin = [(c, r) for c, r in rows if min(int(c * bins), bins - 1) == b]
        if rows_in_bin:
            accuracy = sum(r for _, r in rows_in_bin) / len(rows_in_bin)
            total += len(rows_in_bin) * abs(accuracy - sum(c for c, _ in rows_in_bin) / len(rows_in_bin))
    return total / len(rows)


def test_calibration_error_equals_hand_arithmetic() -> None:
    """Five rows with confidence 0.8, three of them right, and one wrong row with 0.95: (5 * 0.2 + 1 * 0.95) / 6."""
    margin_of_80_percent = margin(0.8)
    metric = CalibrationError()
    metric.update(
        torch.tensor(
            [
                margin_of_80_percent,
                margin_of_80_percent,
                margin_of_80_percent,
                -margin_of_80_percent,
                -margin_of_80_percent,
                -margin(0.95),
            ]
        )
    )
    assert float(metric.compute()) == pytest.approx((5 * 0.2 + 0.95) / 6, abs=1e-5)


def test_calibration_error_equals_plain_python_without_ties() -> None:
    """500 random margins in three batches; rows marked as ties do not count."""
    margins = torch.randn(500, generator=torch.Generator().manual_seed(3)) * 1.5 + 0.4
    ties = torch.arange(500) % 7 == 0
    metric = CalibrationError()
    for margins_of_batch, ties_of_batch in zip(margins.split([11, 400, 89]), ties.split([11, 400, 89]), strict=True):
        metric.update(margins_of_batch, ties=ties_of_batch)
    assert float(metric.compute()) == pytest.approx(calibration_error_in_python(margins[~ties].tolist()), abs=1e-5)


def test_margins_are_not_taken_for_probabilities() -> None:
    """Large margins have confidence 1: the error is 0 if they are right and 1 if they are wrong. A margin of 0.5 has
    the confidence sigmoid(0.5)."""
    metric = CalibrationError()
    metric.update(torch.tensor([50.0, 60.0]))
    assert float(metric.compute()) == pytest.approx(0.0, abs=1e-6)
    metric.reset()
    metric.update(torch.tensor([-50.0, -60.0]))
    assert float(metric.compute()) == pytest.approx(1.0, abs=1e-6)
    metric.reset()
    metric.update(torch.tensor([0.5, 0.5]))
    assert float(metric.compute()) == pytest.approx(1 - 1 / (1 + math.exp(-0.5)), abs=1e-6)
