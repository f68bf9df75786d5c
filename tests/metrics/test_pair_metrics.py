"""Preference metrics against plain Python, and invariants for ties, swapped pairs and batches."""

from __future__ import annotations

import math
import statistics
import warnings

import pytest
import torch

from basereward.errors import NotFiniteError
from basereward.metrics.collection import PreferenceMetrics
from basereward.metrics.length_bias import LengthBias
from basereward.metrics.mean_margin import MeanMargin
from basereward.metrics.pair_accuracy import PairAccuracy

NAMES = {
    *("pair_accuracy", "pairs", "ties", "mean_margin"),
    *("calibration_error", "longer_wins", "follows_length", "equal_lengths"),
}


def sample(pairs: int = 237) -> dict[str, torch.Tensor]:
    """Return random rows; some have ties, margins of 0 or equal lengths."""
    generator = torch.Generator().manual_seed(7)
    margins = torch.randn(pairs, generator=generator) * 2 + 0.5
    margins[::29] = 0.0
    return {
        "margins": margins,
        "ties": torch.rand(pairs, generator=generator) < 0.2,
        "winner_lengths": torch.randint(1, 9, (pairs,), generator=generator),
        "loser_lengths": torch.randint(1, 9, (pairs,), generator=generator),
    }


def values(rows: dict[str, torch.Tensor], *, batches: list[int] | None = None) -> dict[str, float]:
    """Return the metrics of these rows, updated at once or in batches of these sizes."""
    metrics = PreferenceMetrics()
    splits = {name: column.split(batches or len(column)) for name, column in rows.items()}
    for i in range(len(splits["margins"])):
        metrics.update(**{name: batches_of_column[i] for name, batches_of_column in splits.items()})
    return metrics.compute()


def by_hand(rows: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the same metrics computed in plain Python, row by row."""
    decided = [(m, w - o) for m, tie, w, o in zip(*(rows[k].tolist() for k in rows), strict=True) if not tie]
    differing = [(m, d) for m, d in decided if d]
    return {
        "pair_accuracy": sum(m > 0 for m, _ in decided) / len(decided),
        "pairs": len(decided),
        "ties": len(rows["margins"]) - len(decided),
        "mean_margin": statistics.fmean(m for m, _ in decided),
        "longer_wins": sum(d > 0 for _, d in differing) / len(differing),
        "follows_length": sum(m * d > 0 for m, d in differing) / len(differing),
        "equal_lengths": len(decided) - len(differing),
    }


def test_values_equal_plain_python() -> None:
    """Every value except the calibration error, which has its own test, equals a count over the rows."""
    rows = sample()
    result = values(rows)
    assert set(result) == NAMES
    assert all(type(value) is float for value in result.values())
    for name, expected in by_hand(rows).items():
        assert result[name] == pytest.approx(expected, rel=1e-6), name


def test_means_are_over_rows_not_over_batches() -> None:
    """Uneven batches, one of a single row, give the values of one batch; the mean of batch means would differ."""
    rows = sample()
    sizes = [1, 100, 3, 50, 83]
    at_once, in_batches = values(rows), values(rows, batches=sizes)
    for name in NAMES:
        assert in_batches[name] == pytest.approx(at_once[name], rel=1e-5), name
    parts = [values({k: v.split(sizes)[i] for k, v in rows.items()})["mean_margin"] for i in range(len(sizes))]
    assert statistics.fmean(p for p in parts if not math.isnan(p)) != pytest.approx(at_once["mean_margin"], rel=1e-2)


def test_swapping_a_pair_flips_the_sign_of_the_margin() -> None:
    """With winner and loser exchanged in every row, the mean margin changes its sign and the accuracy becomes 1 minus
    it."""
    rows = sample()
    rows["margins"] = torch.where(rows["margins"] == 0, 0.25, rows["margins"])
    swapped = {
        "margins": -rows["margins"],
        "ties": rows["ties"],
        "winner_lengths": rows["loser_lengths"],
        "loser_lengths": rows["winner_lengths"],
    }
    before, after = values(rows), values(swapped)
    assert after["mean_margin"] == pytest.approx(-before["mean_margin"], rel=1e-6)
    assert after["pair_accuracy"] == pytest.approx(1 - before["pair_accuracy"])
    assert after["longer_wins"] == pytest.approx(1 - before["longer_wins"])
    assert after["follows_length"] == pytest.approx(before["follows_length"])


def test_a_tie_is_never_counted_as_right() -> None:
    """At any margin, a tie is in no numerator and no denominator; ties have a count of their own."""
    margins, lengths = torch.tensor([-1.0, 5.0, 7.0]), torch.tensor([3, 9, 9])
    result = values(
        {
            "margins": margins,
            "ties": torch.tensor([False, True, True]),
            "winner_lengths": lengths,
            "loser_lengths": torch.tensor([1, 1, 1]),
        }
    )
    assert (result["pair_accuracy"], result["pairs"], result["ties"]) == (0.0, 1.0, 2.0)
    assert (result["mean_margin"], result["longer_wins"], result["follows_length"]) == (-1.0, 1.0, 0.0)


def test_margin_of_zero_is_wrong() -> None:
    """A model with equal scores for all responses has accuracy 0 and follows no length."""
    result = values(
        {
            "margins": torch.zeros(4),
            "ties": torch.zeros(4, dtype=torch.bool),
            "winner_lengths": torch.tensor([1, 2, 3, 4]),
            "loser_lengths": torch.tensor([4, 3, 2, 1]),
        }
    )
    assert (result["pair_accuracy"], result["pairs"], result["follows_length"]) == (0.0, 4.0, 0.0)
    assert result["longer_wins"] == 0.5


def test_metrics_without_pairs_are_nan() -> None:
    """Without rows, or with ties alone, shares and means are NaN and counts are 0."""
    empty = torch.zeros(0)
    rows = {"margins": empty, "ties": empty.bool(), "winner_lengths": empty.long(), "loser_lengths": empty.long()}
    result = values(rows)
    assert {name for name, value in result.items() if math.isnan(value)} == NAMES - {"pairs", "ties", "equal_lengths"}
    one = torch.ones(1)
    result_of_tie = values(
        {"margins": one, "ties": one.bool(), "winner_lengths": one.long(), "loser_lengths": one.long()}
    )
    assert math.isnan(result_of_tie["pair_accuracy"])
    assert math.isnan(result_of_tie["calibration_error"])
    assert (result_of_tie["pairs"], result_of_tie["ties"]) == (0.0, 1.0)


def test_reset_clears_all_counts() -> None:
    """After `reset`, only later rows count."""
    rows = sample()
    metrics = PreferenceMetrics()
    metrics.update(**rows)
    metrics.reset()
    metrics.update(**{name: column[:20] for name, column in rows.items()})
    assert metrics.compute() == pytest.approx(values({name: column[:20] for name, column in rows.items()}))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_margin_is_an_error(bad: float) -> None:
    """NaN > 0 is false, so NaN would count as a wrong answer. The error has the number of such margins."""
    with pytest.raises(NotFiniteError, match="1 of 2 margins"):
        PairAccuracy().update(torch.tensor([1.0, bad]))


def test_wrong_shapes_are_an_error() -> None:
    """Margins of shape (P, 1) or ties of another length would broadcast to P * P pairs."""
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        MeanMargin().update(torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        PairAccuracy().update(torch.ones(2), ties=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(1,\)"):
        LengthBias().update(torch.ones(2), winner_lengths=torch.ones(1), loser_lengths=torch.ones(1))


def test_mean_margin_is_exact_over_many_batches() -> None:
    """200,000 rows of 0.1 after one of 1e6: a plain float32 sum would be off by several percent."""
    metric = MeanMargin()
    metric.update(torch.tensor([1e6]))
    for _ in range(2000):
        metric.update(torch.full((100,), 0.1))
    assert float(metric.compute()) == pytest.approx((1e6 + 20_000) / 200_001, rel=1e-6)
    naive = torch.tensor(1e6)
    for _ in range(2000):
        naive += torch.full((100,), 0.001).sum()
    assert float(naive) != pytest.approx(1e6 + 200, rel=1e-5)


def test_bfloat16_margins_are_averaged_in_float32() -> None:
    """A bfloat16 sum of 1000 ones would stop at 256."""
    metric = MeanMargin()
    metric.update(torch.ones(1000, dtype=torch.bfloat16))
    assert float(metric.compute()) == 1.0


def test_metrics_of_no_rows_do_not_warn() -> None:
    """A source without rows in a split is no mistake: its accuracy is NaN, and it has 0 pairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = PreferenceMetrics().compute()
    assert result.keys() == NAMES
    assert math.isnan(result["pair_accuracy"])
    assert result["pairs"] == 0
