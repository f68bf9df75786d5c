"""From the scores of several models to one: the ways that papers have tried.

Shapes: M members, K responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from basereward.errors import ModelError

How: TypeAlias = Literal["mean", "weighted", "standardised", "worst", "pessimistic"]
HOWS: tuple[How, ...] = get_args(How)
Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """How scores are combined.

    Args:
        how: `mean` of the raw scores (the best of BaseReward, Table 7), `weighted` sum, mean of `standardised` scores,
            the `worst` of the raw scores, or `pessimistic`: the mean less `k` times the spread (arXiv 2310.02743).
        weights: M, for `weighted`.
        means, deviations: M, of each member's scores on validation data, for `standardised`.
        k: for `pessimistic`.
        text, image: members that score prompts without and with pictures; empty: all of them.

    Raises:
        ModelError: what `how` needs is missing, or a member is named that there is not.
    """

    how: How = "mean"
    members: int = 1
    weights: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    k: float = 1.0
    text: tuple[int, ...] = ()
    image: tuple[int, ...] = ()
    intervals: tuple[tuple[float, float], ...] = field(default=(), compare=False)  # 95 %, of learned weights

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise ModelError(f"an ensemble is combined by one of {', '.join(HOWS)}; '{self.how}' given")
        needed = {"weighted": [self.weights], "standardised": [self.means, self.deviations]}.get(self.how, [])
        if any(len(numbers) != self.members for numbers in needed):
            raise ModelError(f"'{self.how}' needs a number for every one of the {self.members} members")
        if self.how == "standardised" and min(self.deviations) <= 0:
            raise ModelError("a member gives all validation answers the same score; it cannot be standardised")
        if any(not 0 <= index < self.members for index in (*self.text, *self.image)):
            raise ModelError(f"a route names a member that is none of the {self.members}")
        if self.weights and self.how == "weighted" and not all(np.isfinite(self.weights)):
            raise ModelError(f"the weights {self.weights} are not all finite")

    def asked(self, *, images: bool) -> tuple[int, ...]:
        """The members that score a prompt with or without pictures."""
        return (self.image if images else self.text) or tuple(range(self.members))

    def combine(self, scores: Scores, *, images: bool = True) -> Scores:
        """Scores `(M, K)` to `(K,)`. Members that are not asked may hold anything.

        >>> Rule("pessimistic", members=2, k=0.5).combine(np.array([[1.0, 4.0], [3.0, 4.0]]))
        array([1.5, 4. ])
        """
        asked = list(self.asked(images=images))
        some = scores[asked]
        if self.how == "standardised":
            some = (some - np.array(self.means)[asked, None]) / np.array(self.deviations)[asked, None]
        if self.how == "worst":
            worst: Scores = some.min(0)
            return worst
        if self.how == "weighted":
            weights = np.array(self.weights)[asked]
            if len(asked) < self.members:  # of some of the members, with the same sum as all
                weights = weights * (sum(self.weights) / weights.sum())
            summed: Scores = weights @ some
            return summed
        mean: Scores = some.mean(0)
        return mean - self.k * some.std(0) if self.how == "pessimistic" else mean

    def spread(self, scores: Scores, *, images: bool = True) -> Scores:
        """The standard deviation among the members that are asked, `(M, K)` to `(K,)`: how unsure the ensemble is."""
        found: Scores = scores[list(self.asked(images=images))].std(0)
        return found

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def read_rule(told: Mapping[str, Any]) -> Rule:
    """The rule that `as_dict` gave.

    Raises:
        ModelError: it is damaged.
    """
    try:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return Rule(**values)
    except TypeError as error:
        raise ModelError(f"the ensemble's rule cannot be read: {error}") from error


def shares(values: Sequence[float]) -> tuple[float, ...]:
    """Weights that sum to one, in proportion to values (BaseReward, section 5).

    Raises:
        ModelError: a value is negative or none is positive, so that there is no proportion.
    """
    if min(values) < 0 or sum(values) <= 0:
        raise ModelError(
            f"weights in proportion to {', '.join(f'{v:.4g}' for v in values)} cannot be: none may be negative. "
            "Leave that member out, or take the mean"
        )
    return tuple(value / sum(values) for value in values)
