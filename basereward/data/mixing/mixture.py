"""The order in which the groups of several sources are used, as index arrays: millions of groups need megabytes."""

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
    """The order of the groups in each epoch, a function of `seed` and the epoch only.

    Without `weights`, an epoch contains every group once, or as often as `passes` says for its source. With `weights`,
    an epoch contains the sources in the ratio of the weights, rounded to whole groups by the largest-remainder method.
    It ends when the first source is exhausted (`first_exhausted`) or when every source has been used completely
    (`all_exhausted`). A weight of 0 excludes a source.

    Groups are drawn without replacement; an exhausted source starts again in another order. The next epoch continues
    where the last one ended, so that all groups of a partly used source are seen in turn. The sources are spread evenly
    over the epoch: any part of it has about the ratio of the whole.

    Args:
        sizes: the number of groups of each source.
        weights: the weight of each source, for all sources or none; they need not add up to 1.
        limits: the largest number of groups of a source that are used at all; `seed` selects them.
        passes: how often each group of a source occurs in an epoch, by default 1. With 0.5, half of the groups are in
            one epoch and the other half in the next.
        stop: when an epoch with weights ends.
        seed: determines the order.

    Attributes:
        names: the names of the sources; `order` returns indices of this tuple.
        counts: the number of groups of each source in an epoch.

    Raises:
        RecipeError: a weight or limit is missing, out of range, or of an unknown source; or there are no groups.

    >>> mixture = Mixture({"a": 2, "b": 4})
    >>> sources, rows = mixture.order(0)
    >>> mixture.epoch_size, sorted(zip(sources.tolist(), rows.tolist()))
    (6, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)])
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
        # The sizes without the groups that the limits exclude from every epoch.
        self._limited = {name: min(size, (limits or {}).get(name, size)) for name, size in sizes.items()}
        if weights:
            self.counts = _count(self._limited, fractions=_fractions(self._limited, weights), stop=stop)
        else:
            self.counts = {name: _times(size, (passes or {}).get(name, 1)) for name, size in self._limited.items()}
        if not self.epoch_size:
            raise RecipeError(f"nothing to train on: the sources have no groups: {dict(sizes)}")

    @property
    def epoch_size(self) -> int:
        """The number of groups in an epoch."""
        return sum(self.counts.values())

    def order(self, epoch: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the groups of an epoch, in order.

        Returns:
            The index of the source, and the index of the group in its source; both have the shape `(epoch_size,)`.
        """
        sources = np.repeat(np.arange(len(self.names), dtype=np.int32), [self.counts[name] for name in self.names])
        rows = np.concatenate([self._rows(name, epoch) for name in self.names])
        places = np.concatenate([self._places(name, epoch) for name in self.names])
        # The places are random numbers, so two may be equal. A stable sort keeps them in the order of the sources.
        order = np.argsort(places, kind="stable")
        return sources[order], rows[order]

    def _places(self, name: str, epoch: int) -> NDArray[np.float64]:
        """Draw the places of a source's groups in the epoch, 0 to 1: one in each of `count` equal intervals."""
        count = self.counts[name]
        # CRC-32, because Python's own hash of a string is different in every process. The numbers 1, 2 and 3 make the
        # random numbers of the three purposes (places, limits, permutations) independent.
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), 1, epoch])
        return (np.arange(count) + rng.random(count)) / max(count, 1)

    def _rows(self, name: str, epoch: int) -> NDArray[np.int64]:
        """Return the groups of a source in this epoch: a window of an endless sequence of permutations."""
        size, count = self._limited[name], self.counts[name]
        if count == 0:
            return np.empty(0, dtype=np.int64)
        # Epochs are computed directly, without those before, so that a run resumes at any epoch in the same time.
        start = epoch * count
        first, last = start // size, (start + count - 1) // size
        drawn = np.concatenate([self._permutation(name, turn) for turn in range(first, last + 1)])
        return drawn[start - first * size : start - first * size + count]

    def _permutation(self, name: str, turn: int) -> NDArray[np.int64]:
        # The name and not its position, so that a source's order does not depend on the other sources.
        key = zlib.crc32(name.encode())
        rows = np.arange(self._sizes[name], dtype=np.int64)
        if self._limited[name] < len(rows):
            # The same selection in every epoch, which is why `turn` is not part of this seed.
            rows = np.random.default_rng([self.seed, key, 2]).permutation(rows)[: self._limited[name]]
        return np.random.default_rng([self.seed, key, 3, turn]).permutation(rows)


def _check_limits(sizes: Mapping[str, int], limits: Mapping[str, int]) -> None:
    for name, limit in limits.items():
        if name not in sizes:
            raise RecipeError(f"data.mixture.limits: {unknown('source', name, sizes)}")
        if limit < 1:
            raise RecipeError(f"data.mixture.limits.{name} is {limit}; it must be at least 1, or remove the source")


def _check_passes(sizes: Mapping[str, int], passes: Mapping[str, float], *, weights: bool) -> None:
    for name, number in passes.items():
        if name not in sizes:
            raise RecipeError(f"data.mixture.passes: {unknown('source', name, sizes)}")
        if not 0 < number < float("inf"):
            raise RecipeError(f"data.mixture.passes.{name} is {number}; it must be a finite number above 0")
    if passes and weights:
        raise RecipeError("data.mixture has both weights and passes; give one of them")


def _times(size: int, passes: float) -> int:
    # 0.1 as a fraction of decimal digits is one tenth, while the nearest binary number may round to another group.
    return round(size * Fraction(str(passes)))


def _fractions(sizes: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Convert weights to exact fractions that add up to 1; 0.1 is one tenth, not the nearest binary number.

    Raises:
        RecipeError: as `Mixture`.
    """
    for name, weight in weights.items():
        _check_weight(name, weight, sizes)
    missing = [name for name in sizes if name not in weights]
    if missing:
        raise RecipeError(f"data.mixture.weights has no weight for {', '.join(missing)}; give one to all or none")
    exact = {name: Fraction(str(weights[name])) for name in sizes}
    total = sum(exact.values())
    if not total:
        raise RecipeError("data.mixture.weights are all 0; at least one source must be trained on")
    return {name: weight / total for name, weight in exact.items()}


def _check_weight(name: str, weight: float, sizes: Mapping[str, int]) -> None:
    """Check the weight of one source.

    Raises:
        RecipeError: the source is unknown or has no groups, or the weight is negative or not finite.
    """
    if name not in sizes:
        raise RecipeError(f"data.mixture.weights: {unknown('source', name, sizes)}")
    if not 0 <= weight < float("inf"):
        raise RecipeError(f"data.mixture.weights.{name} is {weight}; it must be a finite number, 0 or more")
    # An epoch could never contain the fraction that the recipe asks for.
    if weight and not sizes[name]:
        raise RecipeError(f"data.mixture.weights.{name} is {weight}, but the source has no groups; set it to 0")


def _count(sizes: Mapping[str, int], *, fractions: Mapping[str, Fraction], stop: Stop) -> dict[str, int]:
    """Compute the number of groups of each source in an epoch with weights."""
    # The epoch size at which each source is exhausted.
    exhausted_at = [sizes[name] / fraction for name, fraction in fractions.items() if fraction]
    if stop == "first_exhausted":
        return apportion(math.floor(min(exhausted_at)), fractions)
    if stop == "all_exhausted":
        return apportion(math.ceil(max(exhausted_at)), fractions)
    raise RecipeError(f"data.mixture.stop: {unknown('rule', stop, ('first_exhausted', 'all_exhausted'))}")


def apportion(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Split an integer by the largest-remainder method: round down, then add 1 where the remainders are largest.

    If remainders are equal, the earlier source gets the 1.

    >>> apportion(10, {"a": Fraction(1, 3), "b": Fraction(2, 3)})
    {'a': 3, 'b': 7}
    """
    exact = {name: total * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    # `sorted` is stable, so the earlier one of equal remainders comes first.
    by_remainder = sorted(shares, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
