"""Differences that stand, and those that are chance: against scipy, arithmetic by hand, and draws of equal recipes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test, ttest_rel

from basereward.metrics.significance import Difference, compare, describe_difference, holm, paired_t_test, sign_flip_p

PAIR = np.array([1] * 18 + [-1] * 7 + [0] * 75)  # by how many right pairs one is better than the other, of 100 groups


def run(*right: int) -> dict[str, NDArray[np.int64]]:
    """A recipe with one run."""
    return {"": np.array(right)}


def test_exchanging_single_pairs_is_the_sign_test() -> None:
    """18 groups better, 7 worse: the exact binomial test on 25."""
    assert sign_flip_p(PAIR) == pytest.approx(binomtest(18, 25).pvalue, rel=1e-9)
    many = np.array([1] * 30_000 + [-1] * 29_500)
    assert sign_flip_p(many) == pytest.approx(binomtest(30_000, 59_500).pvalue, rel=1e-9)


def test_exchanging_groups_of_several_pairs_is_counted_out() -> None:
    """Of 12 groups that differ by 0 to 4 pairs, all 4096 exchanges by scipy; parts of pairs change nothing."""
    differences = np.array([3, -1, 2, 0, 4, -2, 1, 1, -3, 2, 2, 1])
    pairs = (differences, np.zeros_like(differences))
    found = permutation_test(pairs, lambda one, two: (one - two).sum(), permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(float(found.pvalue), rel=1e-9)
    assert sign_flip_p(6 * differences) == sign_flip_p(differences)
    assert sign_flip_p(-differences) == sign_flip_p(differences)


def test_exchanging_equal_recipes_shows_nothing() -> None:
    """No group differs, or as many each way."""
    assert sign_flip_p(np.zeros(5, int)) == sign_flip_p(np.array([2, -1, -1])) == 1.0
    assert sign_flip_p(np.ones(200, int)) == pytest.approx(0, abs=1e-14)


def test_seeds_are_student_s_paired_test() -> None:
    """As scipy has it."""
    first, second = [0.91, 0.93, 0.92], [0.90, 0.905, 0.903]
    found = paired_t_test(first, second)
    assert found is not None
    assert found.p == pytest.approx(float(ttest_rel(first, second).pvalue))
    assert found.low < found.mean < found.high
    with pytest.raises(ValueError, match="two or more"):
        paired_t_test([0.5], [0.4])


@pytest.mark.parametrize(("first", "second"), [([0.6, 0.6], [0.5, 0.5]), ([0.1 + 0.2, 0.3 + 0.4], [0.2, 0.6])])
def test_no_spread_over_seeds_is_no_certainty(first: list[float], second: list[float]) -> None:
    """Nor is that of rounding, which scipy takes for p = 2e-16."""
    assert paired_t_test(first, second) is None


def test_many_comparisons_cost() -> None:
    """By hand: the smallest of four counts fourfold, the next threefold, and none is below one before it."""
    assert holm([0.01, 0.5, 0.04, 0.03]) == pytest.approx([0.04, 0.5, 0.09, 0.09])


def test_the_interval_is_that_of_the_mean_difference_of_groups() -> None:
    """25 of 100 groups of one pair differ by one: by hand a spread of sqrt(0.25 - 0.11^2) / 10. With three pairs that
    are right and wrong together it is as wide, not sqrt(3) times narrower."""
    spread = (0.25 - 0.11**2) ** 0.5 / 10
    for size in (1, 3):
        first, second = run(*(size * np.maximum(PAIR, 0))), run(*(size * np.maximum(-PAIR, 0)))
        (found,) = compare({"a": first, "b": second}, np.full(100, size))
        assert found.items.mean == pytest.approx(0.11)
        assert (found.items.low, found.items.high) == pytest.approx(
            (0.11 - 1.96 * spread, 0.11 + 1.96 * spread), abs=0.01
        )
        assert found.items.p == pytest.approx(binomtest(18, 25).pvalue)


def test_pairs_are_what_is_compared() -> None:
    """One large group outweighs two small ones: 4 of 6 against 2 of 6, where the mean over groups says 1/3 and 2/3."""
    (found,) = compare({"a": run(4, 0, 0), "b": run(0, 1, 1)}, np.array([4, 1, 1]))
    assert (found.better, found.other) == ("a", "b")
    assert found.items.mean == pytest.approx((4 - 2) / 6)
    assert found.items.p == 1.0  # however 4, -1 and -1 are exchanged, their sum is at least 2 from 0


def test_the_runs_of_a_recipe_count_by_their_mean() -> None:
    """Of two runs against three, 3/2 against 4/3 right pairs of 4: a difference of 1/24."""
    two = {"0": np.array([1, 1, 0, 0]), "1": np.array([1, 0, 0, 0])}
    three = {"0": np.array([1, 0, 0, 0]), "1": np.array([0, 1, 0, 0]), "2": np.array([1, 1, 0, 0])}
    (found,) = compare({"three": three, "two": two}, np.ones(4, int))
    assert (found.better, found.items.mean) == ("two", pytest.approx(1 / 24))


def test_every_two_recipes_count_as_a_comparison() -> None:
    """By hand: of four recipes the best is better than b by 7 groups and worse by none, 2 / 2^7. Threefold, for the
    comparisons with the best, that would stand; sixfold, for those of every two, it does not."""
    rows = {"best": run(*[1] * 20), "b": run(*[1] * 13, *[0] * 7), "c": run(*[1] * 19, 0), "d": run(*[1] * 18, 0, 0)}
    found = {comparison.other: comparison.items for comparison in compare(rows, np.ones(20, int))}
    every = [binomtest(n, n).pvalue for n in (7, 1, 2, 6, 5, 1)]  # best-b, best-c, best-d, c-b, d-b, c-d
    assert [found[other].p for other in "bcd"] == pytest.approx(holm(every)[:3])
    assert found["b"].p == pytest.approx(6 * 2 / 2**7)
    assert 3 * 2 / 2**7 < 0.05 < found["b"].p


def test_equal_recipes_are_told_apart_in_a_twentieth_of_cases_at_most() -> None:
    """Seven that are alike on 200 groups of one to three pairs, each as hard for all: of 300 draws at most 15 in which
    the best is said to beat any other. Had the six comparisons with the best alone been counted, it would be more."""
    rng = np.random.default_rng(0)
    false = with_best_alone = 0
    for _ in range(300):
        pairs = rng.integers(1, 4, 200)
        hard = rng.random(200)
        recipes = {str(name): {"": rng.binomial(pairs, hard)} for name in range(7)}
        found = compare(recipes, pairs)
        false += any(comparison.items.is_significant for comparison in found)
        alone = [sign_flip_p(recipes[comparison.better][""] - recipes[comparison.other][""]) for comparison in found]
        with_best_alone += min(holm(alone)) < 0.05
    assert 0 < false <= 15 < with_best_alone


def test_seeds_are_adjusted_by_the_comparisons_that_can_be_made() -> None:
    """Three recipes with three seeds, and one of one run that is in none of the tests: three comparisons, by Holm."""
    rng = np.random.default_rng(3)
    shares = {"a": 0.8, "b": 0.6, "c": 0.5}
    recipes = {n: {s: rng.binomial(1, p, 200) for s in ("0", "1", "2")} for n, p in shares.items()}
    recipes["together"] = {"": rng.binomial(1, 0.3, 200)}
    found = {comparison.other: comparison for comparison in compare(recipes, np.ones(200, int))}
    means = {n: [runs[s].mean() for s in ("0", "1", "2")] for n, runs in recipes.items() if len(runs) == 3}
    every = holm([float(ttest_rel(means[one], means[two]).pvalue) for one, two in itertools.combinations("abc", 2)])
    assert [comparison.seeds and comparison.seeds.p for comparison in found.values()] == [
        pytest.approx(every[0]),
        pytest.approx(every[1]),
        None,
    ]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (("",), ("",), "each has one run, which says nothing of other seeds"),
        (("0", "1", "2"), ("",), "of their 3 and 1 runs fewer than two have seeds in common"),
        (("0", "1"), ("0", "1"), "they differ by as much with every seed"),
    ],
    ids=["one run each", "an ensemble", "no spread"],
)
def test_why_nothing_is_said_of_seeds(first: tuple[str, ...], second: tuple[str, ...], said: str) -> None:
    """What is true of these runs."""
    recipes = {"a": dict.fromkeys(first, np.ones(20, int)), "b": dict.fromkeys(second, np.zeros(20, int))}
    (found,) = compare(recipes, np.ones(20, int))
    assert found.seeds is None
    assert found.words == (
        f"a beats b by 100.0 points (100.0 to 100.0) on the same 20 pairs: significant for these runs; {said}"
        + (", which says nothing of others" if said.endswith("every seed") else "")
    )


@pytest.mark.parametrize(
    ("items", "seeds", "said"),
    [
        (Difference(0.01, -0.01, 0.03, 0.4), None, "not significant"),
        (Difference(0.02, 0.01, 0.03, 0.01), None, "significant for these runs; who knows"),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, 0.01, 0.03, 0.02), "significant ("),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, -0.01, 0.05, 0.2), "not over seeds"),
    ],
)
def test_a_difference_is_described(items: Difference, seeds: Difference | None, said: str) -> None:
    """Stands, or chance."""
    assert said in describe_difference("a", "b", items, seeds, pairs=100, no_seeds_reason="who knows")


def test_a_sentence_and_its_interval_are_of_the_same_comparison() -> None:
    """Seven recipes, the best better than another by an interval without 0, and yet within chance among 21 comparisons:
    the sentence has the probability that belongs to the interval, the one that decides, and how many there were."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        recipes = {str(name): {"": rng.binomial(1, 0.7, 400)} for name in range(7)}
        found += compare(recipes, np.ones(400, int))
    apart = [
        comparison.items for comparison in found if comparison.items.low > 0 and not comparison.items.is_significant
    ]
    assert apart
    for comparison in found:
        assert comparison.items.p_alone is not None
        assert comparison.items.p_alone <= comparison.items.p
        assert f"p = {comparison.items.p_alone:.2g} in this comparison alone" in comparison.words
        assert "among 21 comparisons" in comparison.words
        if not comparison.items.is_significant:
            assert f"(p = {comparison.items.p:.2g})" in comparison.words
    (two,) = compare(dict(list(recipes.items())[:2]), np.ones(400, int))
    assert two.items.p_alone == two.items.p
    assert "alone" not in two.words
    assert "among" not in two.words
