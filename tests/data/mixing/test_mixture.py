"""Mixtures of sources: exact ratios, every row once, and one order for each seed and epoch."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from basereward.data.mixing.mixture import Mixture, apportion
from basereward.errors import RecipeError


def _rows_by_source(mixture: Mixture, epoch: int) -> dict[str, list[int]]:
    """Return the rows of each source in the order of an epoch."""
    sources, rows = mixture.order(epoch)
    assert sources.dtype == np.int32
    assert rows.dtype == np.int64
    assert len(sources) == len(rows) == mixture.epoch_size
    return {name: rows[sources == i].tolist() for i, name in enumerate(mixture.names)}


def test_without_weights_every_row_is_drawn_once() -> None:
    """Each epoch has another order."""
    mixture = Mixture({"a": 50, "b": 7, "none": 0})
    assert mixture.epoch_size == 57
    for epoch in range(3):
        assert {name: sorted(rows) for name, rows in _rows_by_source(mixture, epoch).items()} == {
            "a": list(range(50)), "b": list(range(7)), "none": []
        }  # fmt: skip
    assert _rows_by_source(mixture, 0)["a"] != _rows_by_source(mixture, 1)["a"] != list(range(50))


@pytest.mark.parametrize(
    ("sizes", "weights", "stop", "counts"),
    [
        # a is exhausted after 100 / 0.8 = 125 groups, b after 50 / 0.2 = 250
        ({"a": 100, "b": 50}, {"a": 0.8, "b": 0.2}, "first_exhausted", {"a": 100, "b": 25}),
        ({"a": 100, "b": 50}, {"a": 0.8, "b": 0.2}, "all_exhausted", {"a": 200, "b": 50}),
        # 10 / (1/3) = 30 and 10 / (2/3) = 15; a third of 15 is 5
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
    """Against arithmetic by hand, for `counts` and for the order."""
    mixture = Mixture(sizes, weights=weights, stop=stop)  # type: ignore[arg-type]
    assert mixture.counts == counts
    assert {name: len(rows) for name, rows in _rows_by_source(mixture, 0).items()} == counts


def test_source_is_exhausted_before_rows_repeat() -> None:
    """With 25 draws of 10 rows, each row is drawn two to four times in an epoch and ten times in four epochs."""
    mixture = Mixture({"a": 10, "b": 25}, weights={"a": 1, "b": 1})
    assert mixture.counts == {"a": 25, "b": 25}
    seen: list[int] = []
    for epoch in range(4):
        seen += _rows_by_source(mixture, epoch)["a"]
        assert set(Counter(seen[-25:]).values()) <= {2, 3, 4}
    assert Counter(seen) == dict.fromkeys(range(10), 10)


def test_truncated_source_is_covered_over_epochs() -> None:
    """With `first_exhausted`, an epoch draws 10 of 30 rows; three epochs draw each row once."""
    mixture = Mixture({"a": 10, "b": 30}, weights={"a": 1, "b": 1}, stop="first_exhausted")
    seen = [row for epoch in range(3) for row in _rows_by_source(mixture, epoch)["b"]]
    assert sorted(seen) == list(range(30))


def test_ratio_holds_throughout_the_epoch() -> None:
    """After any number of groups, the count of each source differs from its share by less than 4."""
    mixture = Mixture({"a": 900, "b": 90, "c": 10}, seed=3)
    sources, _ = mixture.order(0)
    for i, share in enumerate((0.9, 0.09, 0.01)):
        so_far = np.cumsum(sources == i)
        assert np.abs(so_far - share * np.arange(1, 1001)).max() <= 1 + 3 * share


def test_order_depends_on_seed_and_epoch_only() -> None:
    """A new object has the same order; another seed or epoch has another."""
    arguments = {"sizes": {"a": 40, "b": 60}, "weights": {"a": 0.3, "b": 0.7}}
    orders = {
        (seed, epoch): np.stack(Mixture(**arguments, seed=seed).order(epoch)).tobytes()  # type: ignore[arg-type]
        for seed in (0, 1)
        for epoch in (0, 5)
    }
    assert len(set(orders.values())) == 4
    assert np.stack(Mixture(**arguments, seed=1).order(5)).tobytes() == orders[1, 5]  # type: ignore[arg-type]


def test_the_order_of_a_source_does_not_depend_on_the_others() -> None:
    """Adding a source to a recipe does not change the draws of the first one."""
    alone = _rows_by_source(Mixture({"a": 40}, seed=2), 1)["a"]
    assert _rows_by_source(Mixture({"b": 10, "a": 40}, seed=2), 1)["a"] == alone


def test_limits_choose_a_fixed_subset() -> None:
    """The same rows every epoch, other rows for another seed; a limit above the size has no effect."""
    mixture = Mixture({"a": 1000, "b": 5}, limits={"a": 20, "b": 50})
    subset = set(_rows_by_source(mixture, 0)["a"])
    assert len(subset) == 20 == mixture.counts["a"]
    assert set(_rows_by_source(mixture, 1)["a"]) == subset
    assert _rows_by_source(mixture, 0)["a"] != _rows_by_source(mixture, 1)["a"]
    assert set(_rows_by_source(Mixture({"a": 1000, "b": 5}, limits={"a": 20}, seed=1), 0)["a"]) != subset
    assert mixture.counts["b"] == 5


def test_limits_come_before_weights() -> None:
    """A source limited to 10 of 1,000 rows is exhausted after 10 / 0.5 = 20 groups."""
    mixture = Mixture({"a": 1000, "b": 300}, weights={"a": 0.5, "b": 0.5}, limits={"a": 10}, stop="first_exhausted")
    assert mixture.counts == {"a": 10, "b": 10}


def test_order_of_millions_of_groups_takes_12_bytes_each() -> None:
    """2.85 million groups, the size of the paper's mixture: every row once."""
    sizes = {"mmpr": 2_000_000, "r1": 200_000, "rlaif": 83_000, "olmo": 378_000, "rest": 189_000}
    mixture = Mixture(sizes)
    sources, rows = mixture.order(1)
    assert len(rows) == 2_850_000
    assert sources.nbytes + rows.nbytes == 12 * 2_850_000
    for i, size in enumerate(sizes.values()):
        assert np.array_equal(np.sort(rows[sources == i]), np.arange(size))


def test_apportion_uses_the_largest_remainders() -> None:
    """The exact shares of 10 by 1/6, 2/6 and 3/6 are 1.67, 3.33 and 5."""
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
    """The message has the recipe key and the fault."""
    with pytest.raises(RecipeError, match=words):
        Mixture(**({"sizes": {"a": 3, "bb": 4}} | arguments))  # type: ignore[arg-type]
