"""Agreement of two models against hand arithmetic, and against other ways to the same numbers."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.evaluation.statistics.agreement import Agreement, agreement
from tests.helpers.evaluation_folders import item, write_folder


def compared(folder: Path, one: list[bool | None], two: list[bool | None]) -> Agreement:
    """Two models with these outcomes."""
    first, second = (read_evaluation(write_folder(folder / name, each)) for name, each in (("a", one), ("b", two)))
    return agreement(first, second)


def test_hand_arithmetic(tmp_path: Path) -> None:
    """Of ten: 4 both right, 3 the first alone, 1 the second alone, 2 both wrong.

    Chance agrees on .7 * .5 + .3 * .5 = .5, so kappa is (.6 - .5) / .5; McNemar doubles P(at most 1 of 4) = 5 / 16.
    """
    result = compared(tmp_path, [True] * 7 + [False] * 3, [True] * 4 + [False] * 3 + [True] + [False] * 2)
    assert (result.items, result.prompts) == (10, 5)
    assert (result.both_right, result.only_first, result.only_second, result.both_wrong) == (4, 3, 1, 2)
    assert result.alike == pytest.approx(0.6)
    assert result.kappa == pytest.approx(0.2)
    assert result.difference == pytest.approx(0.2)
    assert result.p == pytest.approx(10 / 16)


def test_against_other_computations(tmp_path: Path) -> None:
    """400 drawn outcomes, two items a prompt: binomials summed by hand, and the sandwich variance of the mean."""
    rng = np.random.default_rng(3)
    one, two = rng.random(400) < 0.8, rng.random(400) < 0.7
    result = compared(tmp_path, one.tolist(), two.tolist())
    few, total = sorted((result.only_first, result.only_second))[0], result.only_first + result.only_second
    assert result.p == pytest.approx(min(1.0, 2 * sum(comb(total, k) for k in range(few + 1)) / 2**total))
    by_prompt = (one.astype(float) - two).reshape(-1, 2).sum(axis=1)
    error = by_prompt.std() * np.sqrt(len(by_prompt)) / len(one)
    assert result.low == pytest.approx(result.difference - 1.96 * error, abs=0.008)
    assert result.high == pytest.approx(result.difference + 1.96 * error, abs=0.008)
    assert compared(tmp_path, one.tolist(), two.tolist()) == result


def test_the_order_of_models_only_turns_signs(tmp_path: Path) -> None:
    """Kappa and p are those of both; the difference changes its sign."""
    one, two = [True, True, False, True, None, False], [True, False, False, True, True, False]
    result, turned = compared(tmp_path, one, two), compared(tmp_path, two, one)
    assert (turned.kappa, turned.p, turned.alike) == (result.kappa, result.p, result.alike)
    assert turned.difference == -result.difference
    assert result.only_second == turned.only_first == 1  # what is undecided is not right


def test_where_nothing_differs(tmp_path: Path) -> None:
    """All right: no kappa, p is 1, the interval a point. With one prompt there is no interval."""
    result = compared(tmp_path, [True] * 4, [True] * 4)
    assert (result.kappa, result.p, result.low, result.high) == (None, 1.0, 0.0, 0.0)
    assert compared(tmp_path, [True, False], [False, False]).low is None


def test_other_items_are_refused(tmp_path: Path) -> None:
    """Another id, a row that is missing, and another benchmark; the rows are named."""
    one = read_evaluation(write_folder(tmp_path / "one", [True] * 4))
    rows = [item(0, True), item(1, True, id="other"), item(2, True), item(3, True)]
    for given in (rows, [rows[0], rows[2], rows[3]]):
        two = read_evaluation(write_folder(tmp_path / "two", [True] * len(given), rows=given))
        with pytest.raises(DataError, match=r"did not score the same items \(row 1\)"):
            agreement(one, two)
    two = read_evaluation(write_folder(tmp_path / "two", [True] * 4, benchmark="rm_bench"))
    with pytest.raises(DataError, match="vl_rewardbench against rm_bench"):
        agreement(one, two)
