"""Test the curve of best-of-N against all subsets, and against what it must be at its ends."""

from __future__ import annotations

import itertools
import random

import pytest
from scipy.integrate import quad
from scipy.stats import norm

from basereward.errors import DataError
from basereward.evaluation.statistics.best_of_n import ScoredResponses, best_of_n


def enumerated(prompt: ScoredResponses, n: int) -> tuple[float, float]:
    """Best-of-N and any right by all subsets; of equal highest scores each is chosen equally often."""
    best: list[float] = []
    reachable: list[float] = []
    for subset in itertools.combinations(range(len(prompt.scores)), n):
        highest = max(prompt.scores[place] for place in subset)
        tied = [prompt.right[place] for place in subset if prompt.scores[place] == highest]
        best.append(sum(tied) / len(tied))
        reachable.append(float(any(prompt.right[place] for place in subset)))
    return sum(best) / len(best), sum(reachable) / len(reachable)


def test_values_are_means_over_all_subsets() -> None:
    """With ties, for every N up to seven responses."""
    rng = random.Random(0)
    prompts = []
    for _ in range(12):
        scores = [float(rng.randrange(4)) for _ in range(7)]
        prompts.append(ScoredResponses(scores, [rng.random() < 0.4 for _ in range(7)]))
    for point in best_of_n(prompts, range(1, 8)):
        expected = [enumerated(prompt, point.n) for prompt in prompts]
        # A tie inside of a subset is a draw among the tied ones of the subset, which has the same mean.
        assert point.value == pytest.approx(sum(value for value, _ in expected) / 12)
        assert point.any_right == pytest.approx(sum(value for _, value in expected) / 12)
        assert point.interval[0] <= point.value <= point.interval[1]
        assert point.gain_interval[0] <= point.gain <= point.gain_interval[1]


def test_ends_of_the_curve() -> None:
    """At 1 it is the accuracy of the policy; a perfect model reaches any_right, a reversed one falls."""
    right = [True, False, False, True]
    perfect = best_of_n([ScoredResponses([float(value) for value in right], right)] * 5)
    assert [point.n for point in perfect] == [1, 2, 4]
    assert [point.value for point in perfect] == pytest.approx([point.any_right for point in perfect])
    assert (perfect[0].value, perfect[0].gain, perfect[-1].value) == (0.5, 0.0, 1.0)
    reversed_scores = best_of_n([ScoredResponses([-float(value) for value in right], right)] * 5)
    assert [point.value for point in reversed_scores] == pytest.approx([0.5, 1 / 6, 0.0])


def half_width(interval: tuple[float, float]) -> float:
    """Half the width of an interval."""
    return (interval[1] - interval[0]) / 2


@pytest.mark.parametrize("lead", [0.0, 0.8, 2.0])
def test_scripted_judge_follows_the_order_statistics(lead: float) -> None:
    """A judge scores right responses N(lead, 1) and wrong ones N(0, 1); a policy is right with chance 0.4. The chance
    that the highest of n scores is of a right response is the integral of n 0.4 f(x - lead) G(x)^(n-1), where G is the
    distribution of a score. Every point is within its interval; a judge without a lead gains nothing."""
    rng, share = random.Random(round(10 * lead)), 0.4
    prompts: list[ScoredResponses] = []
    for _ in range(600):
        right = [rng.random() < share for _ in range(8)]
        prompts.append(ScoredResponses([rng.gauss(lead if value else 0.0, 1.0) for value in right], right))

    def density(x: float, n: int) -> float:
        below = share * norm.cdf(x - lead) + (1 - share) * norm.cdf(x)
        return float(n * share * norm.pdf(x - lead) * below ** (n - 1))

    for point in best_of_n(prompts):
        expected = quad(density, -10, 12, args=(point.n,))[0]
        # 1.6 times the half width of a 95 % interval is one of 99.8 %: of the 24 intervals here one in twenty may miss.
        # The gain is paired by prompt, so its interval is of its own.
        assert abs(point.value - expected) <= 1.6 * half_width(point.interval)
        assert abs(point.gain - (expected - share)) <= 1.6 * half_width(point.gain_interval) + 1e-9
        assert point.any_right == pytest.approx(1 - (1 - share) ** point.n, abs=0.03)


def test_prompts_that_cannot_be_compared_are_refused() -> None:
    """Different numbers of responses, none, NaN, and a size that is too large."""
    one, two = ScoredResponses([1.0], [True]), ScoredResponses([1.0, 2.0], [True, False])
    for prompts in ([], [one, two], [ScoredResponses([1.0], [])], [ScoredResponses([float("nan")], [True])]):
        with pytest.raises(DataError):
            best_of_n(prompts)
    with pytest.raises(DataError, match="1 to 2"):
        best_of_n([two], [3])
