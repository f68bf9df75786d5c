"""Test the agreement of two models against hand arithmetic and independent computations."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.evaluation.statistics.agreement import Agreement, agreement
from tests.helpers.evaluation_folders import item, write_folder


def compared(folder: Path, first_outcomes: list[bool | None], second_outcomes: list[bool | None]) -> Agreement:
    """Return the agreement of two models with these outcomes."""
    first, second = (
        read_evaluation(write_folder(folder / name, outcomes))
        for name, outcomes in (("a", first_outcomes), ("b", second_outcomes))
    )
    return agreement(first, second)


def test_agreement_by_hand(tmp_path: Path) -> None:
    """Of ten items both are right in 4, the first alone in 3, the second alone in 1, and both are wrong in 2.

    Chance agrees on .7 * .5 + .3 * .5 = .5, so kappa is (.6 - .5) / .5; McNemar doubles P(at most 1 of 4) = 5 / 16.
    """
    result = compared(tmp_path, [True] * 7 + [False] * 3, [True] * 4 + [False] * 3 + [True] + [False] * 2)
    assert (result.items, result.prompts) == (10, 5)
    assert (result.both_right, result.only_first, result.only_second, result.both_wrong) == (4, 3, 1, 2)
    assert result.alike == pytest.approx(0.6)
    assert result.kappa == pytest.approx(0.2)
    assert result.difference == pytest.approx(0.2)
    assert result.p == pytest.approx(10 / 16)


def test_agreement_equals_independent_computations(tmp_path: Path) -> None:
    """For 400 random outcomes with two items per prompt, p equals a binomial sum, and the interval equals the sandwich
    variance of the mean."""
    rng = np.random.default_rng(3)
    first, second = rng.random(400) < 0.8, rng.random(400) < 0.7
    result = compared(tmp_path, first.tolist(), second.tolist())
    fewer, total = sorted((result.only_first, result.only_second))[0], result.only_first + result.only_second
    assert result.p == pytest.approx(min(1.0, 2 * sum(comb(total, k) for k in range(fewer + 1)) / 2**total))
    by_prompt = (first.astype(float) - second).reshape(-1, 2).sum(axis=1)
    error = by_prompt.std() * np.sqrt(len(by_prompt)) / len(first)
    assert result.low == pytest.approx(result.difference - 1.96 * error, abs=0.008)
    assert result.high == pytest.approx(result.difference + 1.96 * error, abs=0.008)
    assert compared(tmp_path, first.tolist(), second.tolist()) == result


def test_swapped_models_change_only_the_signs(tmp_path: Path) -> None:
    """Kappa and p are equal, and the difference changes its sign."""
    first, second = [True, True, False, True, None, False], [True, False, False, True, True, False]
    result, swapped = compared(tmp_path, first, second), compared(tmp_path, second, first)
    assert (swapped.kappa, swapped.p, swapped.alike) == (result.kappa, result.p, result.alike)
    assert swapped.difference == -result.difference
    assert result.only_second == swapped.only_first == 1  # an undecided item is not right


def test_agreement_of_equal_outcomes(tmp_path: Path) -> None:
    """If both are always right, there is no kappa, p is 1, and the interval is a point. With one prompt there is no
    interval."""
    result = compared(tmp_path, [True] * 4, [True] * 4)
    assert (result.kappa, result.p, result.low, result.high) == (None, 1.0, 0.0, 0.0)
    assert compared(tmp_path, [True, False], [False, False]).low is None


def test_different_items_are_refused(tmp_path: Path) -> None:
    """Another id, a missing row and another benchmark are errors; the message names the rows."""
    first = read_evaluation(write_folder(tmp_path / "one", [True] * 4))
    rows = [item(0, True), item(1, True, id="other"), item(2, True), item(3, True)]
    for other_rows in (rows, [rows[0], rows[2], rows[3]]):
        second = read_evaluation(write_folder(tmp_path / "two", [True] * len(other_rows), rows=other_rows))
        with pytest.raises(DataError, match=r"did not score the same items \(row 1\)"):
            agreement(first, second)
    second = read_evaluation(write_folder(tmp_path / "two", [True] * 4, benchmark="rm_bench"))
    with pytest.raises(DataError, match="vl_rewardbench against rm_bench"):
        agreement(first, second)
