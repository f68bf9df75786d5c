"""Test the measures against scipy, statsmodels' formulas, and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, norm

from basereward.evaluation.items import Decision, JudgedItem, Outcome
from basereward.evaluation.statistics.measures import accuracy, all_right, length_controlled, mean_accuracy, per_vote
from tests.helpers.benchmark_rows import item, with_correct


def scored(*pairs: tuple[float, float]) -> list[JudgedItem]:
    """Return items whose first answer is right, with the scores of both answers."""
    return [JudgedItem(item(row), Outcome(scores=pair)) for row, pair in enumerate(pairs)]


def test_tie_is_wrong_and_counted() -> None:
    """Of 2 > 1, 1 = 1 and 0 < 1, one is right and one is a tie: 1 of 3."""
    measure = accuracy(scored((2, 1), (1, 1), (0, 1)))
    assert (measure.numerator, measure.denominator, measure.ties) == (1, 3, 1)


def test_wilson_interval_equals_its_formula() -> None:
    """The interval of 1,027 of 1,250 is (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    n, p, z = 1250, 1027 / 1250, norm.ppf(0.975)
    centre, half_width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - half_width) / (1 + z * z / n), (centre + half_width) / (1 + z * z / n))
    interval = accuracy(with_correct([item(row) for row in range(n)], [row < 1027 for row in range(n)])).interval
    assert interval == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("votes", "decision"),
    [
        ((0, 0, 1), Decision.RIGHT),
        ((1, 1, 0), Decision.WRONG),
        ((0, 1), Decision.UNDECIDED),
        ((0, None), Decision.UNDECIDED),
        ((0, 0, None), Decision.RIGHT),
        ((None,), Decision.UNDECIDED),
    ],
)
def test_majority_of_all_votes_decides(votes: tuple[int | None, ...], decision: Decision) -> None:
    """A missing vote counts in the total."""
    assert JudgedItem(item(0), Outcome(votes=votes)).decision is decision


def test_undecided_items_are_wrong_or_excluded() -> None:
    """Of right, wrong and undecided, the accuracy is 1 of 3 or 1 of 2."""
    judged = [JudgedItem(item(row), Outcome(votes=votes)) for row, votes in enumerate([(0,), (1,), (None,)])]
    assert (accuracy(judged).denominator, accuracy(judged, undecided="left_out").denominator) == (3, 2)
    assert accuracy(judged).undecided == accuracy(judged, undecided="left_out").undecided == 1


def test_votes_are_pooled_without_missing_votes() -> None:
    """Votes 0, 0, null and 1, 0 with right answer 0 give 3 of 4."""
    judged = [JudgedItem(item(row), Outcome(votes=votes)) for row, votes in enumerate([(0, 0, None), (1, 0)])]
    measure = per_vote(judged)
    assert (measure.numerator, measure.denominator, measure.undecided) == (3, 4, 1)


def test_acc_plus_counts_prompts_with_all_pairs_right() -> None:
    """Prompts a (right, right), b (right, wrong) and c (right) give 2 of 3."""
    items = [item(row, prompt=name) for row, name in enumerate("aabbc")]
    measure = all_right(with_correct(items, [True, True, True, False, True]))
    assert (measure.numerator, measure.denominator) == (2, 3)


def test_macro_is_the_weighted_mean_of_categories() -> None:
    """Categories 1 of 2 and 3 of 3 give (0.5 + 1) / 2, and with weights 3 and 1 (1.5 + 1) / 4."""
    judged = with_correct([item(row) for row in range(5)], [True, False, True, True, True])
    parts = {"a": judged[:2], "b": judged[2:]}
    assert mean_accuracy(parts).value == 0.75
    assert mean_accuracy(parts, weights={"a": 3, "b": 1}).value == 0.625


def test_bootstrap_of_independent_prompts_is_binomial() -> None:
    """With one item per prompt, resampling draws Binomial(n, p), so the interval has its quantiles within 2 / n."""
    n, right = 200, 150
    judged = with_correct([item(row) for row in range(n)], [row < right for row in range(n)])
    expected = binom.ppf([0.025, 0.975], n, right / n) / n
    assert all_right(judged).interval == pytest.approx(expected, abs=2 / n)
    assert mean_accuracy({"all": judged}).interval == pytest.approx(expected, abs=2 / n)


def test_bootstrap_resamples_whole_prompts() -> None:
    """Four equal items per prompt have the certainty of one, so the interval is twice as wide as that of independent
    items."""
    right = [row < 75 for row in range(100)]
    independent = mean_accuracy(
        {"all": with_correct([item(row) for row in range(400)], [is_right for is_right in right for _ in range(4)])}
    )
    items = [item(row, prompt=str(row // 4)) for row in range(400)]
    grouped = mean_accuracy({"all": with_correct(items, [is_right for is_right in right for _ in range(4)])})
    widths = [measure.interval[1] - measure.interval[0] for measure in (independent, grouped) if measure.interval]
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.15)


def test_macro_interval_has_the_nominal_coverage() -> None:
    """The macro mean is of two categories with 60 and 240 independent items; about 95 % of 200 intervals contain the
    truth."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        right = np.concatenate([generator.random(60) < 0.6, generator.random(240) < 0.9])
        judged = with_correct([item(row) for row in range(300)], right.tolist())
        interval = mean_accuracy({"a": judged[:60], "b": judged[60:]}).interval
        assert interval is not None
        covered += interval[0] <= 0.75 <= interval[1]
    assert 180 <= covered <= 200


def test_length_control_equals_a_logistic_regression() -> None:
    """Value and interval equal scipy's minimum of the penalised likelihood and its Hessian by finite differences."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(5, 60, (300, 2))
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    right = generator.random(300) < 1 / (1 + np.exp(-(0.4 + 0.03 * difference)))
    items = [item(row, lengths=(int(a), int(b))) for row, (a, b) in enumerate(lengths)]
    measure = length_controlled(with_correct(items, right.tolist()))
    x = np.tanh(difference / difference.std())

    def loss(weights: np.ndarray) -> float:
        z = weights[0] + weights[1] * x
        return float(np.logaddexp(0, -np.where(right, z, -z)).sum() + weights[1] ** 2 / 2)

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    step = 1e-4
    steps = np.eye(2) * step
    hessian = [
        [
            (loss(best + a + b) - loss(best + a - b) - loss(best - a + b) + loss(best - a - b)) / (4 * step**2)
            for b in steps
        ]
        for a in steps
    ]
    half_width = norm.ppf(0.975) * math.sqrt(np.linalg.inv(hessian)[0, 0])
    expected = [1 / (1 + math.exp(-value)) for value in (best[0], best[0] - half_width, best[0] + half_width)]
    assert measure.interval is not None
    assert [measure.value, *measure.interval] == pytest.approx(expected, abs=1e-4)


def test_length_control_of_the_longer_answer_is_chance() -> None:
    """A rule that always prefers the longer answer has one half at equal length."""
    generator = np.random.default_rng(2)
    lengths = generator.integers(5, 60, (400, 2))
    items = [item(row, lengths=(int(a), int(b))) for row, (a, b) in enumerate(lengths)]
    judged = [
        JudgedItem(pair, Outcome(scores=(float(a), float(b)))) for pair, (a, b) in zip(items, lengths, strict=True)
    ]
    assert length_controlled(judged).value == pytest.approx(0.5, abs=0.1)


def test_measure_without_items_is_nan() -> None:
    """A measure without items has the value NaN and no interval."""
    for measure in (accuracy([]), per_vote([]), all_right([]), mean_accuracy({"a": []}), length_controlled([])):
        assert math.isnan(measure.value)
        assert measure.interval is None
