"""Test the agreement of annotators against hand arithmetic, published examples and scikit-learn."""

from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import cohen_kappa_score

from basereward.evaluation.statistics.kappa import annotator_agreement

# Fleiss (1971) as in the usual worked example: 10 subjects, 14 raters, 5 categories; kappa is 0.210.
FLEISS = (
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
)  # fmt: skip


def two_raters(yes_yes: int, yes_no: int, no_yes: int, no_no: int) -> list[dict[str, str]]:
    """Return the ratings of two annotators with these numbers of items."""
    cells = (("yes", "yes", yes_yes), ("yes", "no", yes_no), ("no", "yes", no_yes), ("no", "no", no_no))
    ratings = []
    for first, second, number in cells:
        ratings += [{"ann": first, "bob": second}] * number
    return ratings


def test_two_raters_equal_hand_arithmetic() -> None:
    """Observed 35 of 50; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa (0.7 - 0.5) / 0.5 = 0.4. For Fleiss, yes has 55
    of 100 ratings: chance 0.505, kappa 0.195 / 0.495."""
    agreement = annotator_agreement(two_raters(20, 5, 10, 15))
    assert agreement.items == 50
    assert agreement.exact.value == pytest.approx(0.7)
    assert agreement.cohen.value == pytest.approx(0.4)
    assert agreement.fleiss.value == pytest.approx(0.195 / 0.495)
    (pair,) = agreement.pairs
    assert (pair.annotators, pair.items) == (("ann", "bob"), 50)
    assert pair.cohen == agreement.cohen


def test_fleiss_equals_the_published_example() -> None:
    """Kappa of the worked example is 0.210, with observed agreement 0.378 and agreement by chance 0.213."""
    ratings = []
    for counts in FLEISS:
        categories = [str(category) for category, count in enumerate(counts) for _ in range(count)]
        ratings.append({f"rater {number:02}": category for number, category in enumerate(categories)})
    value = annotator_agreement(ratings).fleiss.value
    assert value is not None
    assert value == pytest.approx((0.37802 - 0.21276) / (1 - 0.21276), abs=1e-4)
    assert round(value, 3) == 0.21


def test_pairs_and_their_mean_equal_scikit_learn() -> None:
    """Each pair of three annotators is computed on the items that both rated; the mean is over the pairs."""
    rng = random.Random(0)
    ratings: list[dict[str, str]] = []
    for _ in range(200):
        truth = rng.choice("abc")
        people = rng.sample(("ann", "bob", "eve"), rng.choice((1, 2, 3)))
        ratings.append({name: truth if rng.random() < 0.7 else rng.choice("abc") for name in people})
    agreement = annotator_agreement(ratings)
    expected = []
    for first, second in (("ann", "bob"), ("ann", "eve"), ("bob", "eve")):
        common = [item for item in ratings if first in item and second in item]
        expected.append(cohen_kappa_score([item[first] for item in common], [item[second] for item in common]))
    assert [pair.cohen.value for pair in agreement.pairs] == pytest.approx(expected)
    assert agreement.cohen.value == pytest.approx(sum(expected) / 3)
    assert agreement.items == sum(len(item) > 1 for item in ratings)


def test_interval_covers_the_truth() -> None:
    """Two annotators who each err on one item of ten: agreement 0.82 by chance 0.5, so kappa is 0.64. In 40 samples of
    300 items, the 95 % interval holds it in at least 32, four standard deviations below 38."""
    rng = random.Random(1)
    covered = 0
    for _ in range(40):
        ratings = []
        for _ in range(300):
            truth = rng.choice(("right", "wrong"))
            other = {"right": "wrong", "wrong": "right"}[truth]
            ratings.append({name: other if rng.random() < 0.1 else truth for name in ("ann", "bob")})
        cohen = annotator_agreement(ratings).cohen
        assert cohen.low is not None
        assert cohen.high is not None
        covered += cohen.low <= 0.64 <= cohen.high
    assert covered >= 32


def test_undefined_numbers_are_none() -> None:
    """Without common items nothing is defined. If all ratings are one category, chance alone agrees on all of them."""
    nothing = annotator_agreement([{"ann": "yes"}, {}])
    assert (nothing.items, nothing.exact.value, nothing.cohen.value, nothing.pairs) == (0, None, None, ())
    constant = annotator_agreement([{"ann": "yes", "bob": "yes"}] * 5)
    assert (constant.exact.value, constant.cohen.value, constant.fleiss.value) == (1.0, None, None)
    single = annotator_agreement([{"ann": "yes", "bob": "no"}])
    assert (single.exact.value, single.cohen.value, single.cohen.low) == (0.0, 0.0, None)


def test_perfect_and_opposite_agreement_have_no_interval_of_width_0() -> None:
    """Five items of two categories on which both agree: kappa is 1, and no resample says how sure that is. The share of
    exact agreement, 5 of 5, has Wilson's interval from 5 / (5 + 1.96^2). Two items on which both always differ have a
    Fleiss' kappa of -1 (observed 0, by chance 0.5), Cohen's is 0 (chance 0), and the share is up to 1.96^2 / (2 +
    1.96^2)."""
    perfect = annotator_agreement(two_raters(3, 0, 0, 2))
    z = 1.959964**2
    assert (perfect.cohen.value, perfect.fleiss.value) == (1.0, 1.0)
    assert (perfect.cohen.low, perfect.cohen.high, perfect.fleiss.low) == (None, None, None)
    assert (perfect.exact.low, perfect.exact.high) == (pytest.approx(5 / (5 + z), abs=1e-6), pytest.approx(1.0))
    opposite = annotator_agreement(two_raters(0, 2, 0, 0))
    assert (opposite.cohen.value, opposite.fleiss.value) == (0.0, -1.0)
    assert (opposite.cohen.low, opposite.fleiss.low) == (None, None)
    assert (opposite.exact.low, opposite.exact.high) == (pytest.approx(0.0), pytest.approx(z / (2 + z), abs=1e-6))
    assert opposite.pairs[0].exact == opposite.exact


def test_one_annotator_with_one_category_equals_scikit_learn() -> None:
    """Whoever always gives one category agrees with anybody by chance alone: kappa is 0, also for scikit-learn. Where
    both do so it is not defined, for scikit-learn too."""
    ratings = two_raters(6, 0, 4, 0)  # bob always says yes
    (pair,) = annotator_agreement(ratings).pairs
    columns = [[item[name] for item in ratings] for name in ("ann", "bob")]
    assert pair.cohen.value == pytest.approx(cohen_kappa_score(*columns)) == pytest.approx(0.0)
    assert pair.cohen.low is None
    with pytest.warns(UserWarning, match="nan|NaN|undefined|0/0|invalid|label"):
        assert math.isnan(cohen_kappa_score(["yes"] * 4, ["yes"] * 4))
    assert annotator_agreement(two_raters(4, 0, 0, 0)).cohen.value is None


def test_pairs_of_annotators_without_a_common_item_are_left_out() -> None:
    """Ann and Bob never rated the same item: they are no pair, and the mean is that of the two pairs that are."""
    ratings = [{"ann": "yes", "eve": "yes"}, {"ann": "no", "eve": "yes"}, {"bob": "no", "eve": "no"}]
    agreement = annotator_agreement(ratings)
    assert [pair.annotators for pair in agreement.pairs] == [("ann", "eve"), ("bob", "eve")]
    assert [pair.cohen.value for pair in agreement.pairs] == [0.0, None]
    assert (agreement.cohen.value, agreement.exact.value) == (0.0, pytest.approx(2 / 3))
