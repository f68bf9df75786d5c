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
MemberScores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """How scores are combined.

    Args:
        how: `mean` of the raw scores (the best of BaseReward, Table 7), `weighted` sum, mean of `standardised` scores,
            the `worst` of the raw scores, or `pessimistic`: the mean less `k` times the spread (arXiv 2310.02743).
        weights: M, for `weighted`, applied as they are; 0 for a member that is not asked.
        text_weights: M, the same for prompts without pictures; empty where no member is named for them alone.
        means, deviations: M, of each member's scores on validation data, for `standardised`.
        k: for `pessimistic`.
        text, image: members that score prompts without and with pictures; empty: all of them.
        intervals, text_intervals: M, (low, high) of 95 % of weights that were learned.

    Raises:
        ModelError: what `how` needs is missing or no number, or a member is named that there is not.
    """

    how: How = "mean"
    members: int = 1
    weights: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    k: float = 1.0
    text: tuple[int, ...] = ()
    image: tuple[int, ...] = ()
    intervals: tuple[tuple[float, float], ...] = field(default=(), compare=False)
    text_weights: tuple[float, ...] = ()
    text_intervals: tuple[tuple[float, float], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.how not in HOWS:
            raise ModelError(f"an ensemble is combined by one of {', '.join(HOWS)}; '{self.how}' given")
        if any(not 0 <= index < self.members for index in (*self.text, *self.image)):
            raise ModelError(f"a route names a member that is none of the {self.members}")
        if not 0 <= self.k < np.inf:
            raise ModelError(f"k is a finite number of at least 0; {self.k:g} given")
        self._check_numbers()
        if self.how == "standardised" and min(self.deviations) <= 0:
            raise ModelError("a member gives all validation answers the same score; it cannot be standardised")
        if self.how == "weighted":
            for images in (True, False):
                self._check_route(images=images)

    def _check_numbers(self) -> None:
        """One for every member, and finite."""
        needed = {"weighted": ["weights"], "standardised": ["means", "deviations"]}.get(self.how, [])
        if self.how == "weighted" and (self.text or self.image):
            needed.append("text_weights")
        for name in needed:
            numbers = getattr(self, name)
            if len(numbers) != self.members:
                raise ModelError(
                    f"'{self.how}' needs a number for every one of the {self.members} members; {name} has "
                    f"{len(numbers)}. Make the ensemble anew"
                )
            if not np.isfinite(numbers).all():
                raise ModelError(f"{name} must be finite numbers; {numbers} given")

    def _check_route(self, *, images: bool) -> None:
        """Weights that are all 0 would give every answer the same score."""
        weights = self.weights_of(images=images)
        asked = self.asked(images=images)
        if not any(weights[index] for index in asked):
            named = ", ".join(map(str, asked))
            raise ModelError(
                f"of prompts {'with' if images else 'without'} pictures all weights are 0 (members {named}), so that "
                "every answer would score alike; name other members for them, or take how=mean"
            )

    def asked(self, *, images: bool) -> tuple[int, ...]:
        """The members that score a prompt with or without pictures."""
        return (self.image if images else self.text) or tuple(range(self.members))

    def weights_of(self, *, images: bool) -> tuple[float | None, ...]:
        """M, what each member's raw score counts of a prompt with or without pictures; None where it has no weight.

        >>> Rule("mean", members=3, text=(2,), image=(0, 1)).weights_of(images=True)
        (0.5, 0.5, 0.0)
        """
        if self.how == "weighted":
            return self.text_weights if self.text_weights and not images else self.weights
        if self.how == "mean":
            asked = self.asked(images=images)
            return tuple(1 / len(asked) if index in asked else 0.0 for index in range(self.members))
        return (None,) * self.members

    def intervals_of(self, *, images: bool) -> tuple[tuple[float, float] | None, ...]:
        """M, those of learned weights of members that are asked, else None."""
        found = self.text_intervals if self.text_weights and not images else self.intervals
        asked = self.asked(images=images)
        return tuple(found[index] if found and index in asked else None for index in range(self.members))

    def combine(self, scores: MemberScores, *, images: bool = True) -> MemberScores:
        """Scores `(M, K)` to `(K,)`. Members that are not asked may hold anything.

        >>> Rule("pessimistic", members=2, k=0.5).combine(np.array([[1.0, 4.0], [3.0, 4.0]]))
        array([1.5, 4. ])
        """
        asked = list(self.asked(images=images))
        some = scores[asked]
        if self.how == "standardised":
            some = (some - np.array(self.means)[asked, None]) / np.array(self.deviations)[asked, None]
        if self.how == "worst":
            worst: MemberScores = some.min(0)
            return worst
        if self.how == "weighted":
            summed: MemberScores = np.array(self.weights_of(images=images), float)[asked] @ some
            return summed
        mean: MemberScores = some.mean(0)
        return mean - self.k * some.std(0) if self.how == "pessimistic" else mean

    def spread(self, scores: MemberScores, *, images: bool = True) -> MemberScores:
        """The standard deviation among the members that are asked, `(M, K)` to `(K,)`: how unsure the ensemble is."""
        found: MemberScores = scores[list(self.asked(images=images))].std(0)
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
        ModelError: a value is negative or not finite, or none is positive, so that there is no proportion.
    """
    if not all(0 <= value < np.inf for value in values) or sum(values) <= 0:
        raise ModelError(
            f"weights in proportion to {', '.join(f'{v:.4g}' for v in values)} cannot be: none may be negative, and "
            "one must be above 0. Leave that member out, or take the mean"
        )
    return tuple(value / sum(values) for value in values)
