"""In which order the groups of several sources are trained on, as index arrays, so that millions cost megabytes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np

from basereward.errors import RecipeError, unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stop = Literal["first_exhausted", "all_exhausted"]


class Mixture:
    """The order of the groups in each epoch, a function of `seed` and epoch alone.

    Without `weights` every group comes once an epoch, or as often as `passes` says for its source. With them an epoch
    has the sources in the ratio of the weights,
    exact but for the rounding to whole groups (largest remainder): as many groups as there are until the first source
    runs out (`first_exhausted`), or until every source was used whole at least once (`all_exhausted`). A weight of 0
    leaves a source out.

    A source is drawn without replacement; when it is used up it starts anew in another order. The next epoch goes on
    where the last one stopped, so that the groups of a source that is cut short are all seen in turn. The sources are
    spread evenly through the epoch: an epoch that is cut short has them in the ratio of the whole, give or take a few
    groups.

    Attributes:
        names: the sources; `order` gives indices into them.
        counts: for each source the number of groups in an epoch.

    Args:
        sizes: the number of groups of each source.
        weights: the share of each source, for all or for none; they need not add up to 1.
        limits: at most so many groups of a source are used, ever; `seed` chooses which.
        passes: how often the groups of a source come in an epoch, 1 where it is not given; 0.5 is every second group,
            the others in the next epoch.

    Raises:
        RecipeError: a weight or limit names no source, is out of range, or is missing; or there is nothing to train on.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        weights: Mapping[str, float] | None = None,
        limits: Mapping[str, int] | None = None,
        passes: Mapping[str, float] | None = None,
        stop: Stop = "all_exhausted",
        seed: int = 0,
    ) -> None:
        _check_limits(sizes, limits or {})
        _check_passes(sizes, passes or {}, weights=bool(weights))
        self.names = tuple(sizes)
        self.seed = seed
        self._sizes = dict(sizes)
        self._limited = {name: min(size, (limits or {}).get(name, size)) for name, size in sizes.items()}
        if weights:
            self.counts = _count(self._limited, shares=_shares(self._limited, weights), stop=stop)
        else:
            self.counts = {name: _times(size, (passes or {}).get(name, 1)) for name, size in self._limited.items()}
        if not self.epoch_size:
            raise RecipeError(f"nothing to train on: the sources have no groups: {dict(sizes)}")

    @property
    def epoch_size(self) -> int:
        """Groups an epoch."""
        return sum(self.counts.values())

    def order(self, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The epoch's groups: at each place the index of the source, and of the group in it; both of (epoch_size,)."""
        sources = np.repeat(np.arange(len(self.names), dtype=np.int32), [self.counts[name] for name in self.names])
        rows = np.concatenate([self._rows(name, epoch) for name in self.names])
        places = np.concatenate([self._places(name, epoch) for name in self.names])
        order = np.argsort(places, kind="stable")
        return sources[order], rows[order]

    def _places(self, name: str, epoch: int) -> NDArray[np.float64]:
        """Where in the epoch, 0 to 1, the source's groups go: at random, one in each of `count` equal stretches."""
        count = self.counts[name]
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), 1, epoch])
        return (np.arange(count) + rng.random(count)) / max(count, 1)

    def _rows(self, name: str, epoch: int) -> NDArray[np.int64]:
        """The source's groups of this epoch: a window of an endless row of permutations."""
        size, count = self._limited[name], self.counts[name]
        if count == 0:
            return np.empty(0, dtype=np.int64)
        start = epoch * count
        first, last = start // size, (start + count - 1) // size
        drawn = np.concatenate([self._permutation(name, turn) for turn in range(first, last + 1)])
        return drawn[start - first * size : start - first * size + count]

    def _permutation(self, name: str, turn: int) -> NDArray[np.int64]:
        key = zlib.crc32(name.encode())  # by name: a source's order does not depend on the others
        rows = np.arange(self._sizes[name], dtype=np.int64)
        if self._limited[name] < len(rows):
            rows = np.random.default_rng([self.seed, key, 2]).permutation(rows)[: self._limited[name]]
        return np.random.default_rng([self.seed, key, 3, turn]).permutation(rows)


def _check_limits(sizes: Mapping[str, int], limits: Mapping[str, int]) -> None:
    for name, limit in limits.items():
        if name not in sizes:
            raise RecipeError(f"data.mixture.limits: {unknown('source', name, sizes)}")
        if limit < 1:
            raise RecipeError(f"data.mixture.limits.{name} is {limit}; at least 1 is needed, or remove the source")


def _check_passes(sizes: Mapping[str, int], passes: Mapping[str, float], *, weights: bool) -> None:
    for name, number in passes.items():
        if name not in sizes:
            raise RecipeError(f"data.mixture.passes: {unknown('source', name, sizes)}")
        if not 0 < number < float("inf"):
            raise RecipeError(f"data.mixture.passes.{name} is {number}; a number above 0 is needed")
    if passes and weights:
        raise RecipeError("data.mixture has both weights and passes; each of them says how often a source comes")


def _times(size: int, passes: float) -> int:
    return round(size * Fraction(str(passes)))


def _shares(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, Fraction]:
    """The weights as exact fractions that add up to 1. 0.1 is taken as one tenth, not as its nearest binary number."""
    for name, weight in weights.items():
        if name not in sizes:
            raise RecipeError(f"data.mixture.weights: {unknown('source', name, sizes)}")
        if not 0 <= weight < float("inf"):
            raise RecipeError(f"data.mixture.weights.{name} is {weight}; a finite number, 0 or more, is needed")
        if weight and not sizes[name]:
            raise RecipeError(f"data.mixture.weights.{name} is {weight}, but the source has no groups; set it to 0")
    missing = [name for name in sizes if name not in weights]
    if missing:
        raise RecipeError(f"data.mixture.weights has no weight for {', '.join(missing)}; give one to all or none")
    exact = {name: Fraction(str(weights[name])) for name in sizes}
    total = sum(exact.values())
    if not total:
        raise RecipeError("data.mixture.weights are all 0; at least one source must be trained on")
    return {name: weight / total for name, weight in exact.items()}


def _count(sizes: Mapping[str, int], *, shares: Mapping[str, Fraction], stop: Stop) -> dict[str, int]:
    """Groups of each source in an epoch. Each is its share of the total rounded up or down, so these totals do."""
    full = [sizes[name] / share for name, share in shares.items() if share]  # the total at which each source is used up
    if stop == "first_exhausted":
        return apportion(math.floor(min(full)), shares)
    if stop == "all_exhausted":
        return apportion(math.ceil(max(full)), shares)
    raise RecipeError(f"data.mixture.stop: {unknown('rule', stop, ('first_exhausted', 'all_exhausted'))}")


def apportion(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Splits a whole number by the largest-remainder method: floors first, then one more to the largest remainders.

    Of equal remainders the earlier source comes first.

    >>> apportion(10, {"a": Fraction(1, 3), "b": Fraction(2, 3)})
    {'a': 3, 'b': 7}
    """
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
