"""The mixture: exact ratios, every row once, one order for one seed and epoch."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from basereward.data.mixing.mixture import Mixture, apportion
from basereward.errors import RecipeError


def _drawn(mixture: Mixture, epoch: int) -> dict[str, list[int]]:
    sources, rows = mixture.order(epoch)
    assert sources.dtype == np.int32
    assert rows.dtype == np.int64
    assert len(sources) == len(rows) == mixture.epoch_size
    return {name: rows[sources == i].tolist() for i, name in enumerate(mixture.names)}


def test_without_weights_every_row_comes_once_an_epoch() -> None:
    """And each epoch in another order."""
    mixture = Mixture({"a": 50, "b": 7, "none": 0})
    assert mixture.epoch_size == 57
    for epoch in range(3):
        assert {name: sorted(rows) for name, rows in _drawn(mixture, epoch).items()} == {
            "a": list(range(50)), "b": list(range(7)), "none": []
        }  # fmt: skip
    assert _drawn(mixture, 0)["a"] != _drawn(mixture, 1)["a"] != list(range(50))


@pytest.mark.parametrize(
    ("sizes", "weights", "stop", "counts"),
    [
        # 100 / 0.8 = 125 groups until a is used up, 50 / 0.2 = 250 until b is
        ({"a": 100, "b": 50}, {"a": 0.8, "b": 0.2}, "first_exhausted", {"a": 100, "b": 25}),
        ({"a": 100, "b": 50}, {"a": 0.8, "b": 0.2}, "all_exhausted", {"a": 200, "b": 50}),
        # 10 / (1/3) = 30 and 10 / (2/3) = 15; of 15 a third is 5
        ({"a": 10, "b": 10}, {"a": 1, "b": 2}, "first_exhausted", {"a": 5, "b": 10}),
        ({"a": 10, "b": 10}, {"a": 1, "b": 2}, "all_exhausted", {"a": 10, "b": 20}),
        # 0.1 is one tenth: 7 / 0.1 is 70, though 0.1 + 0.2 is not 0.3 in binary
        ({"a": 7, "b": 100, "c": 100}, {"a": 0.1, "b": 0.2, "c": 0.7}, "first_exhausted", {"a": 7, "b": 14, "c": 49}),
        # 5 / (3/7) = 11.67, so 11 groups: 4.71, 4.71, 1.57 -> 4, 4, 1 and the two largest remainders
        ({"a": 5, "b": 50, "c": 50}, {"a": 3, "b": 3, "c": 1}, "first_exhausted", {"a": 5, "b": 5, "c": 1}),
        ({"a": 30, "b": 50}, {"a": 1, "b": 0}, "all_exhausted", {"a": 30, "b": 0}),
    ],
)
def test_ratios_are_exact(sizes: dict[str, int], weights: dict[str, float], stop: str, counts: dict[str, int]) -> None:
    """Against arithmetic done by hand, in the attribute and in the order itself."""
    mixture = Mixture(sizes, weights=weights, stop=stop)  # type: ignore[arg-type]
    assert mixture.counts == counts
    assert {name: len(rows) for name, rows in _drawn(mixture, 0).items()} == counts


def test_a_source_is_used_up_before_any_of_it_comes_again() -> None:
    """With 25 draws of 10 rows, each comes twice or three times, within an epoch and over all epochs."""
    mixture = Mixture({"a": 10, "b": 25}, weights={"a": 1, "b": 1})
    assert mixture.counts == {"a": 25, "b": 25}
    seen: list[int] = []
    for epoch in range(4):
        seen += _drawn(mixture, epoch)["a"]
        assert set(Counter(seen[-25:]).values()) <= {2, 3, 4}
    assert Counter(seen) == dict.fromkeys(range(10), 10)


def test_a_source_that_is_cut_short_is_seen_whole_over_the_epochs() -> None:
    """10 rows a first_exhausted epoch of a source of 30: three epochs see each row once."""
    mixture = Mixture({"a": 10, "b": 30}, weights={"a": 1, "b": 1}, stop="first_exhausted")
    seen = [row for epoch in range(3) for row in _drawn(mixture, epoch)["b"]]
    assert sorted(seen) == list(range(30))


def test_the_ratio_holds_all_through_the_epoch() -> None:
    """After any number of groups each source is within 3 of its share."""
    mixture = Mixture({"a": 900, "b": 90, "c": 10}, seed=3)
    sources, _ = mixture.order(0)
    for i, share in enumerate((0.9, 0.09, 0.01)):
        so_far = np.cumsum(sources == i)
        assert np.abs(so_far - share * np.arange(1, 1001)).max() <= 1 + 3 * share


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    """A new object gives the same; another seed, and another epoch, do not."""
    arguments = {"sizes": {"a": 40, "b": 60}, "weights": {"a": 0.3, "b": 0.7}}
    orders = {
        (seed, epoch): np.stack(Mixture(**arguments, seed=seed).order(epoch)).tobytes()  # type: ignore[arg-type]
        for seed in (0, 1)
        for epoch in (0, 5)
    }
    assert len(set(orders.values())) == 4
    assert np.stack(Mixture(**arguments, seed=1).order(5)).tobytes() == orders[1, 5]  # type: ignore[arg-type]


def test_the_order_of_a_source_does_not_depend_on_the_others() -> None:
    """So that adding a source to a recipe leaves the draws of the first as they were."""
    alone = _drawn(Mixture({"a": 40}, seed=2), 1)["a"]
    assert _drawn(Mixture({"b": 10, "a": 40}, seed=2), 1)["a"] == alone


def test_limits_choose_a_subset_that_stays() -> None:
    """The same rows every epoch, other ones for another seed, and no more than there are."""
    mixture = Mixture({"a": 1000, "b": 5}, limits={"a": 20, "b": 50})
    subset = set(_drawn(mixture, 0)["a"])
    assert len(subset) == 20 == mixture.counts["a"]
    assert set(_drawn(mixture, 1)["a"]) == subset
    assert _drawn(mixture, 0)["a"] != _drawn(mixture, 1)["a"]
    assert set(_drawn(Mixture({"a": 1000, "b": 5}, limits={"a": 20}, seed=1), 0)["a"]) != subset
    assert mixture.counts["b"] == 5


def test_limits_come_before_weights() -> None:
    """A source limited to 10 of 1,000 is used up after 10: 10 / 0.5 = 20."""
    mixture = Mixture({"a": 1000, "b": 300}, weights={"a": 0.5, "b": 0.5}, limits={"a": 10}, stop="first_exhausted")
    assert mixture.counts == {"a": 10, "b": 10}


def test_millions_of_groups_cost_megabytes() -> None:
    """The paper's mixture in size, 2.85 million groups: every row once, in two arrays of 12 bytes a group."""
    sizes = {"mmpr": 2_000_000, "r1": 200_000, "rlaif": 83_000, "olmo": 378_000, "rest": 189_000}
    mixture = Mixture(sizes)
    sources, rows = mixture.order(1)
    assert len(rows) == 2_850_000
    assert sources.nbytes + rows.nbytes == 12 * 2_850_000
    for i, size in enumerate(sizes.values()):
        assert np.array_equal(np.sort(rows[sources == i]), np.arange(size))


def test_apportion_gives_whole_numbers_that_add_up() -> None:
    """Largest remainder: of 10 by 1/6, 2/6, 3/6 the exact shares are 1.67, 3.33, 5."""
    shares = {"a": Fraction(1, 6), "b": Fraction(2, 6), "c": Fraction(3, 6)}
    assert apportion(10, shares) == {"a": 2, "b": 3, "c": 5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": {"a": 1, "c": 1}}, "data.mixture.weights: unknown source 'c'"),
        ({"weights": {"a": 1}}, "no weight for bb"),
        ({"weights": {"a": 1, "bb": -1}}, "data.mixture.weights.bb is -1"),
        ({"weights": {"a": 1, "bb": float("nan")}}, "data.mixture.weights.bb is nan"),
        ({"weights": {"a": 0, "bb": 0}}, "all 0"),
        ({"limits": {"b": 3}}, "did you mean 'bb'"),
        ({"limits": {"a": 0}}, "data.mixture.limits.a is 0"),
        ({"weights": {"a": 1, "bb": 1}, "stop": "first"}, "unknown rule 'first'"),
        ({"sizes": {"a": 0, "bb": 0}}, "nothing to train on"),
        ({"sizes": {"a": 0, "bb": 5}, "weights": {"a": 1, "bb": 1}}, "the source has no groups"),
    ],
)
def test_faults_name_the_key(arguments: dict[str, object], words: str) -> None:
    """Each message holds the recipe's key and what is wrong with it."""
    with pytest.raises(RecipeError, match=words):
        Mixture(**({"sizes": {"a": 3, "bb": 4}} | arguments))  # type: ignore[arg-type]
