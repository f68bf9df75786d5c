"""Significance tests of recipe comparisons, against scipy, arithmetic by hand and simulated equal recipes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, permutation_test, ttest_rel

from basereward.metrics.significance import Difference, compare, describe_difference, holm, paired_t_test, sign_flip_p

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
    per group that are right or wrong together give the same width, not one narrower by sqrt(3)."""
    standard_error = (0.25 - 0.11**2) ** 0.5 / 10
    for size in (1, 3):
        first, second = one_run(*(size * np.maximum(PAIR, 0))), one_run(*(size * np.maximum(-PAIR, 0)))
        (comparison,) = compare({"a": first, "b": second}, np.full(100, size))
        assert comparison.items.mean == pytest.approx(0.11)
        assert (comparison.items.low, comparison.items.high) == pytest.approx(
            (0.11 - 1.96 * standard_error, 0.11 + 1.96 * standard_error), abs=0.01
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
        f"a beats b by 100.0 points (100.0 to 100.0) on the same 20 pairs: significant for these runs; {reason}"
        + (", which says nothing of others" if reason.endswith("every seed") else "")
    )


@pytest.mark.parametrize(
    ("items", "seeds", "verdict"),
    [
        (Difference(0.01, -0.01, 0.03, 0.4), None, "not significant"),
        (Difference(0.02, 0.01, 0.03, 0.01), None, "significant for these runs; who knows"),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, 0.01, 0.03, 0.02), "significant ("),
        (Difference(0.02, 0.01, 0.03, 0.01), Difference(0.02, -0.01, 0.05, 0.2), "not over seeds"),
    ],
)
def test_describe_difference_names_the_verdict(items: Difference, seeds: Difference | None, verdict: str) -> None:
    """The text says whether the difference is significant, and over what."""
    assert verdict in describe_difference("a", "b", items, seeds, pairs=100, no_seeds_reason="who knows")


def test_summary_gives_both_p_values() -> None:
    """Among 21 comparisons of seven recipes, an interval without 0 may not be significant. The summary therefore gives
    the p-value of the comparison alone, the adjusted p-value that decides, and the number of comparisons."""
    comparisons = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        recipes = {str(name): {"": rng.binomial(1, 0.7, 400)} for name in range(7)}
        comparisons += compare(recipes, np.ones(400, int))
    unadjusted_only = [
        comparison.items
        for comparison in comparisons
        if comparison.items.low > 0 and not comparison.items.is_significant
    ]
    assert unadjusted_only
    for comparison in comparisons:
        assert comparison.items.p_alone is not None
        assert comparison.items.p_alone <= comparison.items.p
        assert f"p = {comparison.items.p_alone:.2g} in this comparison alone" in comparison.words
        assert "among 21 comparisons" in comparison.words
        if not comparison.items.is_significant:
            assert f"(p = {comparison.items.p:.2g})" in comparison.words
    (comparison_of_two,) = compare(dict(list(recipes.items())[:2]), np.ones(400, int))
    assert comparison_of_two.items.p_alone == comparison_of_two.items.p
    assert "alone" not in comparison_of_two.words
    assert "among" not in comparison_of_two.words
