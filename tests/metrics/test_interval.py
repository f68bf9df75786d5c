"""Wilson's interval, against its formula."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest

from basereward.metrics.interval import wilson


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (8, 10), (970, 1000), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_the_formula(correct: int, total: int, level: float) -> None:
    """The ends are the two roots of (p - share)^2 = z^2 p (1 - p) / n."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    low, high = wilson(correct, total, level=level)
    assert low == pytest.approx(middle - half, abs=1e-12)
    assert high == pytest.approx(middle + half, abs=1e-12)
    assert -1e-12 <= low <= share <= high <= 1 + 1e-12


def test_wilson_of_no_rows_is_0_to_1() -> None:
    """Without rows, every share is possible."""
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "total", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 95.0)])
def test_wilson_rejects_invalid_counts_and_levels(correct: int, total: int, level: float) -> None:
    """A negative count, more right than total, and a level of 0 or in percent."""
    with pytest.raises(ValueError, match="allowed"):
        wilson(correct, total, level=level)
