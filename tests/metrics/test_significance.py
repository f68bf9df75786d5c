"""Significance tests of recipe comparisons, against scipy, arithmetic by hand and simulated equal recipes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test, ttest_rel

from basereward.metrics.significance import (
    Difference,
    compare,
    describe_difference,
    holm,
    holm_levels,
    paired_t_test,
    sign_flip_interval,
    sign_flip_p,
)

PAIR = np.array([1] * 18 + [-1] * 7 + [0] * 75)  # difference in right pairs of two recipes, for each of 100 groups


def one_run(*num_right: int) -> dict[str, NDArray[np.int64]]:
    """Return a recipe with one run, from the number of right pairs of each group."""
    return {"": np.array(num_right)}


def test_sign_flip_of_single_pairs_equals_the_sign_test() -> None:
    """With 18 groups better and 7 worse, p is that of scipy's exact binomial test on 25."""
    assert sign_flip_p(PAIR) == pytest.approx(binomtest(18, 25).pvalue, rel=1e-9)
    many_pairs = np.array([1] * 30_000 + [-1] * 29_500)
    assert sign_flip_p(many_pairs) == pytest.approx(binomtest(30_000, 59_500).pvalue, rel=1e-9)


def test_sign_flip_of_groups_equals_the_exact_permutation_test() -> None:
    """For 12 groups with differences up to 4 pairs, p equals scipy's over all 4096 sign changes; scale and sign do not
    matter."""
    differences = np.array([3, -1, 2, 0, 4, -2, 1, 1, -3, 2, 2, 1])
    pairs = (differences, np.zeros_like(differences))
    reference = permutation_test(
        pairs, lambda one, two: (one - two).sum(), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(differences) == pytest.approx(float(reference.pvalue), rel=1e-9)
    assert sign_flip_p(6 * differences) == sign_flip_p(differences)
    assert sign_flip_p(-differences) == sign_flip_p(differences)


def test_sign_flip_of_equal_recipes_is_one() -> None:
    """p is 1 if no group differs or the differences cancel, and near 0 if one recipe wins every group."""
    assert sign_flip_p(np.zeros(5, int)) == sign_flip_p(np.array([2, -1, -1])) == 1.0
    assert sign_flip_p(np.ones(200, int)) == pytest.approx(0, abs=1e-14)


def test_paired_t_test_equals_scipy() -> None:
    """p equals scipy's `ttest_rel`, the interval contains the mean, and one seed is an error."""
    first, second = [0.91, 0.93, 0.92], [0.90, 0.905, 0.903]
    result = paired_t_test(first, second)
    assert result is not None
    assert result.p == pytest.approx(float(ttest_rel(first, second).pvalue))
    assert result.low < result.mean < result.high
    with pytest.raises(ValueError, match="two or more"):
        paired_t_test([0.5], [0.4])


@pytest.mark.parametrize(("first", "second"), [([0.6, 0.6], [0.5, 0.5]), ([0.1 + 0.2, 0.3 + 0.4], [0.2, 0.6])])
def test_paired_t_test_without_spread_has_no_result(first: list[float], second: list[float]) -> None:
    """Equal differences over the seeds give no p-value. Neither do differences that are equal up to rounding, for which
    scipy gives p = 2e-16."""
    assert paired_t_test(first, second) is None


def test_holm_adjusts_p_values() -> None:
    """By hand: the smallest of four p-values is multiplied by 4, the next by 3; adjusted values never decrease."""
    assert holm([0.01, 0.5, 0.04, 0.03]) == pytest.approx([0.04, 0.5, 0.09, 0.09])


def test_interval_treats_groups_as_the_sampling_unit() -> None:
    """25 of 100 groups of one pair differ by one: by hand the standard error is sqrt(0.25 - 0.11^2) / 10. Three pairs
    per group that are right or wrong together give the same width, not one narrower by sqrt(3). The exact test is one
    pair in 100 wider, because sums are whole numbers."""
    standard_error = (0.25 - 0.11**2) ** 0.5 / 10
    for size in (1, 3):
        first, second = one_run(*(size * np.maximum(PAIR, 0))), one_run(*(size * np.maximum(-PAIR, 0)))
        (comparison,) = compare({"a": first, "b": second}, np.full(100, size))
        assert comparison.items.mean == pytest.approx(0.11)
        assert (comparison.items.low, comparison.items.high) == pytest.approx(
            (0.11 - 1.96 * standard_error, 0.11 + 1.96 * standard_error), abs=0.013
        )
        assert comparison.items.p == pytest.approx(binomtest(18, 25).pvalue)


def test_mean_difference_is_over_pairs() -> None:
    """One large group outweighs two small ones: 4 of 6 pairs against 2 of 6, where a mean over groups gives 1/3 and
    2/3."""
    (comparison,) = compare({"a": one_run(4, 0, 0), "b": one_run(0, 1, 1)}, np.array([4, 1, 1]))
    assert (comparison.better, comparison.other) == ("a", "b")
    assert comparison.items.mean == pytest.approx((4 - 2) / 6)
    assert comparison.items.p == 1.0  # with any signs of 4, -1 and -1, the sum is at least 2 away from 0


def test_runs_of_a_recipe_are_averaged() -> None:
    """Two runs have 3/2 right pairs of 4 on average, three runs 4/3: a difference of 1/24."""
    two_runs = {"0": np.array([1, 1, 0, 0]), "1": np.array([1, 0, 0, 0])}
    three_runs = {"0": np.array([1, 0, 0, 0]), "1": np.array([0, 1, 0, 0]), "2": np.array([1, 1, 0, 0])}
    (comparison,) = compare({"three": three_runs, "two": two_runs}, np.ones(4, int))
    assert (comparison.better, comparison.items.mean) == ("two", pytest.approx(1 / 24))


def test_adjustment_counts_every_pair_of_recipes() -> None:
    """By hand: the best of four recipes beats b on 7 groups and loses none, p = 2 / 2^7. This is significant if
    multiplied by 3 (comparisons with the best), but not by 6 (all pairs of recipes)."""
    recipes = {
        "best": one_run(*[1] * 20),
        "b": one_run(*[1] * 13, *[0] * 7),
        "c": one_run(*[1] * 19, 0),
        "d": one_run(*[1] * 18, 0, 0),
    }
    differences = {comparison.other: comparison.items for comparison in compare(recipes, np.ones(20, int))}
    p_values = [binomtest(n, n).pvalue for n in (7, 1, 2, 6, 5, 1)]  # best-b, best-c, best-d, c-b, d-b, c-d
    assert [differences[other].p for other in "bcd"] == pytest.approx(holm(p_values)[:3])
    assert differences["b"].p == pytest.approx(6 * 2 / 2**7)
    assert 3 * 2 / 2**7 < 0.05 < differences["b"].p


def test_false_positive_rate_is_at_most_five_percent() -> None:
    """Seven equal recipes are simulated 300 times on 200 groups of one to three pairs. The best is significantly better
    than another in at most 15 draws. Adjusting only for the six comparisons with the best would give more."""
    rng = np.random.default_rng(0)
    false_positives = false_positives_with_best = 0
    for _ in range(300):
        num_pairs = rng.integers(1, 4, 200)
        accuracies = rng.random(200)
        recipes = {str(name): {"": rng.binomial(num_pairs, accuracies)} for name in range(7)}
        comparisons = compare(recipes, num_pairs)
        false_positives += any(comparison.items.is_significant for comparison in comparisons)
        p_values = [
            sign_flip_p(recipes[comparison.better][""] - recipes[comparison.other][""]) for comparison in comparisons
        ]
        false_positives_with_best += min(holm(p_values)) < 0.05
    assert 0 < false_positives <= 15 < false_positives_with_best


def test_seed_p_values_are_adjusted_for_testable_pairs() -> None:
    """Three recipes have three seeds; a fourth has one run and no seed test. Holm's adjustment counts three
    comparisons."""
    rng = np.random.default_rng(3)
    accuracies = {"a": 0.8, "b": 0.6, "c": 0.5}
    recipes = {n: {s: rng.binomial(1, p, 200) for s in ("0", "1", "2")} for n, p in accuracies.items()}
    recipes["together"] = {"": rng.binomial(1, 0.3, 200)}
    comparisons = {comparison.other: comparison for comparison in compare(recipes, np.ones(200, int))}
    means = {n: [runs[s].mean() for s in ("0", "1", "2")] for n, runs in recipes.items() if len(runs) == 3}
    adjusted = holm([float(ttest_rel(means[one], means[two]).pvalue) for one, two in itertools.combinations("abc", 2)])
    assert [comparison.seeds and comparison.seeds.p for comparison in comparisons.values()] == [
        pytest.approx(adjusted[0]),
        pytest.approx(adjusted[1]),
        None,
    ]


@pytest.mark.parametrize(
    ("first_seeds", "second_seeds", "reason"),
    [
        (("",), ("",), "each has one run, which says nothing of other seeds"),
        (("0", "1", "2"), ("",), "of their 3 and 1 runs fewer than two have seeds in common"),
        (("0", "1"), ("0", "1"), "they differ by as much with every seed"),
    ],
    ids=["one run each", "an ensemble", "no spread"],
)
def test_reason_for_no_seed_test_is_given(
    first_seeds: tuple[str, ...], second_seeds: tuple[str, ...], reason: str
) -> None:
    """The summary says why there is no test over seeds."""
    recipes = {"a": dict.fromkeys(first_seeds, np.ones(20, int)), "b": dict.fromkeys(second_seeds, np.zeros(20, int))}
    (comparison,) = compare(recipes, np.ones(20, int))
    assert comparison.seeds is None
    assert comparison.words == (
        "a beats b by 100.0 points (100.0 to 100.0) on the same 20 pairs: significant for these runs (p = 1.9e-06); "
        f"{reason}" + (", which says nothing of others" if reason.endswith("every seed") else "")
    )


@pytest.mark.parametrize(
    ("items", "seeds", "verdict"),
    [
        (Difference(0.01, -0.01, 0.03, 0.4), None, "not significant"),
        (Difference(0.02, 0.01, 0.03, 0.01), None, "significant for these runs (p = 0.01); who knows"),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, 0.01, 0.03, 0.02), "significant ("),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, -0.01, 0.05, 0.2), "not over seeds"),
    ],
)
def test_describe_difference_names_the_verdict(items: Difference, seeds: Difference | None, verdict: str) -> None:
    """The text says whether the difference is significant, and over what."""
    assert verdict in describe_difference("a", "b", items, seeds, pairs=100, no_seeds_reason="who knows")


def test_intervals_agree_with_the_adjusted_p() -> None:
    """Among the 21 comparisons of seven recipes, an interval excludes 0 if and only if its adjusted p is below 5 %,
    whatever the groups and the seeds. Both cases occur, and so do differences whose p would be below 5 % alone."""
    significant, by_chance_alone = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pairs = rng.integers(1, 6, 150)
        accuracies = rng.uniform(0.6, 0.75, 7)
        recipes = {}
        for name, accuracy in enumerate(accuracies):
            recipes[str(name)] = {s: rng.binomial(pairs, accuracy + rng.normal(0, 0.02)) for s in "012"}
        for comparison in compare(recipes, pairs):
            for difference in (comparison.items, comparison.seeds):
                assert difference is not None
                assert (difference.low > 0 or difference.high < 0) == (difference.p < 0.05)
                assert difference.low <= difference.mean <= difference.high
                significant.append(difference.is_significant)
            first, second = recipes[comparison.better], recipes[comparison.other]
            alone = sign_flip_p(np.sum([*first.values()], axis=0) - np.sum([*second.values()], axis=0))
            by_chance_alone += alone < 0.05 <= comparison.items.p
    assert 0.1 < np.mean(significant) < 0.9
    assert by_chance_alone > 10


@pytest.mark.parametrize(
    ("differences", "pairs"),
    [([1], [1]), ([1, 1, 1, 1], [1, 1, 1, 1]), ([1] * 100 + [0], [1] * 100 + [1000]), ([4, -1, -1], [4, 1, 1])],
    ids=["one group", "few groups", "one large group", "p of 1"],
)
def test_interval_of_unusual_groups(differences: list[int], pairs: list[int]) -> None:
    """The interval contains the difference, stays within -1 and 1, and agrees with the p value."""
    p = sign_flip_p(np.array(differences))
    low, high = sign_flip_interval(np.array(differences, float), np.array(pairs), p=p)
    assert -1 <= low <= sum(differences) / sum(pairs) <= high <= 1
    assert (low > 0) == (p < 0.05)


def test_interval_covers_the_true_difference() -> None:
    """In 1,000 simulated comparisons of two recipes that differ by 5 points, the 95 % interval has that difference in
    at least 93 and at most 99 of 100."""
    rng = np.random.default_rng(0)
    covered = 0
    pairs = rng.integers(1, 4, 300)
    for _ in range(1000):
        differences = rng.binomial(pairs, 0.75) - rng.binomial(pairs, 0.7)
        low, high = sign_flip_interval(differences.astype(float), pairs, p=sign_flip_p(differences))
        covered += low <= 0.05 <= high
    assert 930 <= covered <= 990


def test_levels_of_holm_decide_as_the_adjusted_values_do() -> None:
    """For random p values, one is below its level if and only if its adjusted value is below 5 %."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        values = list(rng.random(6) ** 4)
        assert [p < level for p, level in zip(values, holm_levels(values), strict=True)] == [
            adjusted < 0.05 for adjusted in holm(values)
        ]


def test_summary_gives_the_adjusted_p() -> None:
    """The sentence has the adjusted p and the number of comparisons, which two recipes do not need."""
    rng = np.random.default_rng(0)
    recipes = {str(name): {"": rng.binomial(1, 0.7, 400)} for name in range(7)}
    for comparison in compare(recipes, np.ones(400, int)):
        assert f"among 21 comparisons (p = {comparison.items.p:.2g})" in comparison.words
    (comparison,) = compare(dict(list(recipes.items())[:2]), np.ones(400, int))
    assert "among" not in comparison.words
