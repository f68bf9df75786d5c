"""Measures against scipy, statsmodels' formulas worked out anew, and arithmetic by hand."""

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
    """Items whose first answer is right, with the scores of both."""
    return [JudgedItem(item(row), Outcome(scores=pair)) for row, pair in enumerate(pairs)]


def test_a_tie_is_wrong_and_counted() -> None:
    """Of 2 > 1, 1 = 1, 0 < 1 one is right, one ties: 1 of 3."""
    measure = accuracy(scored((2, 1), (1, 1), (0, 1)))
    assert (measure.numerator, measure.denominator, measure.ties) == (1, 3, 1)


def test_wilson_by_its_formula() -> None:
    """The interval of 1,027 of 1,250 from (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    n, p, z = 1250, 1027 / 1250, norm.ppf(0.975)
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    found = accuracy(with_correct([item(row) for row in range(n)], [row < 1027 for row in range(n)])).interval
    assert found == pytest.approx(expected, abs=1e-9)


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
def test_more_than_half_of_all_votes_decide(votes: tuple[int | None, ...], decision: Decision) -> None:
    """A vote for nothing counts among all votes."""
    assert JudgedItem(item(0), Outcome(votes=votes)).decision is decision


def test_undecided_items_are_wrong_or_left_out() -> None:
    """Right, wrong, undecided: 1 of 3, or 1 of 2."""
    judged = [JudgedItem(item(row), Outcome(votes=votes)) for row, votes in enumerate([(0,), (1,), (None,)])]
    assert (accuracy(judged).denominator, accuracy(judged, undecided="left_out").denominator) == (3, 2)
    assert accuracy(judged).undecided == accuracy(judged, undecided="left_out").undecided == 1


def test_votes_are_pooled_without_those_for_nothing() -> None:
    """Votes 0, 0, null and 1, 0, with answer 0 right: 3 of 4."""
    judged = [JudgedItem(item(row), Outcome(votes=votes)) for row, votes in enumerate([(0, 0, None), (1, 0)])]
    measure = per_vote(judged)
    assert (measure.numerator, measure.denominator, measure.undecided) == (3, 4, 1)


def test_acc_plus_counts_prompts_that_are_all_right() -> None:
    """Prompts a (right, right), b (right, wrong), c (right): 2 of 3."""
    items = [item(row, prompt=name) for row, name in enumerate("aabbc")]
    measure = all_right(with_correct(items, [True, True, True, False, True]))
    assert (measure.numerator, measure.denominator) == (2, 3)


def test_a_macro_mean_is_of_categories() -> None:
    """1 of 2 and 3 of 3: (0.5 + 1) / 2; with weights 3 and 1: (1.5 + 1) / 4."""
    judged = with_correct([item(row) for row in range(5)], [True, False, True, True, True])
    parts = {"a": judged[:2], "b": judged[2:]}
    assert mean_accuracy(parts).value == 0.75
    assert mean_accuracy(parts, weights={"a": 3, "b": 1}).value == 0.625


def test_the_bootstrap_of_independent_prompts_is_the_binomials() -> None:
    """With one item a prompt, resampling draws Binomial(n, p): the interval has its quantiles, within a grid step."""
    n, right = 200, 150
    judged = with_correct([item(row) for row in range(n)], [row < right for row in range(n)])
    expected = binom.ppf([0.025, 0.975], n, right / n) / n
    assert all_right(judged).interval == pytest.approx(expected, abs=2 / n)
    assert mean_accuracy({"all": judged}).interval == pytest.approx(expected, abs=2 / n)


def test_items_of_one_prompt_are_drawn_together() -> None:
    """Four items a prompt that are right or wrong alike are no more certain than one: the interval is twice as wide."""
    right = [row < 75 for row in range(100)]
    alone = mean_accuracy(
        {"all": with_correct([item(row) for row in range(400)], [r for r in right for _ in range(4)])}
    )
    items = [item(row, prompt=str(row // 4)) for row in range(400)]
    together = mean_accuracy({"all": with_correct(items, [r for r in right for _ in range(4)])})
    widths = [measure.interval[1] - measure.interval[0] for measure in (alone, together) if measure.interval]
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.15)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Macro of two categories of 60 and 240 independent items: of 200 drawn at random, about 95 % cover the truth."""
    coin = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        right = np.concatenate([coin.random(60) < 0.6, coin.random(240) < 0.9])
        judged = with_correct([item(row) for row in range(300)], right.tolist())
        interval = mean_accuracy({"a": judged[:60], "b": judged[60:]}).interval
        assert interval is not None
        covered += interval[0] <= 0.75 <= interval[1]
    assert 180 <= covered <= 200


def test_length_control_is_a_logistic_regression() -> None:
    """Value and interval as minimising the penalised likelihood by scipy gives them, and its Hessian by differences."""
    coin = np.random.default_rng(1)
    lengths = coin.integers(5, 60, (300, 2))
    difference = (lengths[:, 0] - lengths[:, 1]).astype(float)
    right = coin.random(300) < 1 / (1 + np.exp(-(0.4 + 0.03 * difference)))
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
    spread = norm.ppf(0.975) * math.sqrt(np.linalg.inv(hessian)[0, 0])
    expected = [1 / (1 + math.exp(-value)) for value in (best[0], best[0] - spread, best[0] + spread)]
    assert measure.interval is not None
    assert [measure.value, *measure.interval] == pytest.approx(expected, abs=1e-4)


def test_length_control_of_a_rule_about_length_is_no_better_than_a_coin() -> None:
    """Who always takes the longer answer knows nothing at equal length."""
    coin = np.random.default_rng(2)
    lengths = coin.integers(5, 60, (400, 2))
    items = [item(row, lengths=(int(a), int(b))) for row, (a, b) in enumerate(lengths)]
    judged = [
        JudgedItem(each, Outcome(scores=(float(a), float(b)))) for each, (a, b) in zip(items, lengths, strict=True)
    ]
    assert length_controlled(judged).value == pytest.approx(0.5, abs=0.1)


def test_nothing_counted_is_nan_without_an_interval() -> None:
    """No item, no share."""
    for measure in (accuracy([]), per_vote([]), all_right([]), mean_accuracy({"a": []}), length_controlled([])):
        assert math.isnan(measure.value)
        assert measure.interval is None
