"""Rules that combine the scores of several models into one.

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
    """How the scores of M members are combined.

    Args:
        how: `mean` of the raw scores (the best of BaseReward, Table 7), `weighted` sum, mean of `standardised` scores,
            the `worst` of the raw scores, or `pessimistic`: the mean minus `k` times the standard deviation
            (arXiv 2310.02743).
        members: M.
        weights: M numbers, for `weighted`; they are not normalised, and 0 for a member that is not used.
        text_weights: the same for prompts without images; empty if both kinds of prompts have the same members.
        means, deviations: M numbers, of each member's scores on validation data, for `standardised`. If they are given,
            `worst` and `pessimistic` combine standardised scores too.
        k: for `pessimistic`.
        text, image: indices of the members that score prompts without and with images; empty: all.
        intervals, text_intervals: M 95 % intervals (low, high) of learned weights.

    Raises:
        ModelError: a number that `how` needs is missing or not finite, or an index has no member.

    >>> Rule("worst", members=2).combine(np.array([[1.0, 4.0], [3.0, 2.0]]))
    array([1., 2.])
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
            raise ModelError(f"unknown rule '{self.how}' of an ensemble; allowed are {', '.join(HOWS)}")
        if any(not 0 <= index < self.members for index in (*self.text, *self.image)):
            raise ModelError(
                f"a route names a member that does not exist: text is {list(self.text)}, image is {list(self.image)}; "
                f"allowed are 0 to {self.members - 1}"
            )
        if not 0 <= self.k < np.inf:
            raise ModelError(f"k is {self.k:g}; it must be a finite number of at least 0")
        self._check_numbers()
        if self.standardises and min(self.deviations) <= 0:
            raise ModelError(
                "a member gives all validation responses the same score, so its scores cannot be standardised. Leave "
                "it out, or use how=mean"
            )
        if self.how == "weighted":
            # A learned weight may be 0, so a route of such members alone is possible.
            for images in (True, False):
                self._check_route(images=images)

    def _check_numbers(self) -> None:
        """Checks that every member has the numbers that the rule needs, and that they are finite."""
        needed = ["weights"] if self.how == "weighted" else []
        if self.standardises:
            needed += ["means", "deviations"]
        if self.how == "weighted" and (self.text or self.image):
            needed.append("text_weights")
        for name in needed:
            numbers = getattr(self, name)
            if len(numbers) != self.members:
                raise ModelError(
                    f"'{self.how}' needs a number for each of the {self.members} members; {name} has "
                    f"{len(numbers)}. Create the ensemble again"
                )
            if not np.isfinite(numbers).all():
                raise ModelError(f"{name} must be finite numbers; {numbers} given")

    def _check_route(self, *, images: bool) -> None:
        """Checks that some weight is not 0; otherwise every response would have the same score."""
        weights = self.weights_of(images=images)
        active = self.active_members(images=images)
        if not any(weights[index] for index in active):
            named = ", ".join(map(str, active))
            raise ModelError(
                f"for prompts {'with' if images else 'without'} images all weights are 0 (members {named}), so every "
                "response would have the same score; name other members for them, or use how=mean"
            )

    @property
    def standardises(self) -> bool:
        """Whether scores are divided by their spread before they are combined.

        >>> Rule("worst").standardises, Rule("worst", means=(0.0,), deviations=(2.0,)).standardises
        (False, True)
        """
        return self.how == "standardised" or (self.how in ("worst", "pessimistic") and bool(self.means))

    def active_members(self, *, images: bool) -> tuple[int, ...]:
        """Indices of the members that score a prompt with or without images."""
        return (self.image if images else self.text) or tuple(range(self.members))

    def weights_of(self, *, images: bool) -> tuple[float | None, ...]:
        """The weight of each member's raw score for a prompt with or without images; None if the rule has no weights.

        >>> Rule("mean", members=3, text=(2,), image=(0, 1)).weights_of(images=True)
        (0.5, 0.5, 0.0)
        """
        if self.how == "weighted":
            return self.text_weights if self.text_weights and not images else self.weights
        if self.how == "mean":
            active = self.active_members(images=images)
            return tuple(1 / len(active) if index in active else 0.0 for index in range(self.members))
        return (None,) * self.members

    def intervals_of(self, *, images: bool) -> tuple[tuple[float, float] | None, ...]:
        """The interval of each active member's learned weight; None for other members and for other rules."""
        intervals = self.text_intervals if self.text_weights and not images else self.intervals
        active = self.active_members(images=images)
        return tuple(intervals[index] if intervals and index in active else None for index in range(self.members))

    def combine(self, scores: MemberScores, *, images: bool = True) -> MemberScores:
        """Combines scores `(M, K)` to `(K,)`; rows of members that are not active are ignored.

        >>> Rule("pessimistic", members=2, k=0.5).combine(np.array([[1.0, 4.0], [3.0, 4.0]]))
        array([1.5, 4. ])
        """
        active = list(self.active_members(images=images))
        active_scores = scores[active]
        if self.standardises:
            # Scores of members have different scales; each is divided by its own spread on validation data.
            centred = active_scores - np.array(self.means)[active, None]
            active_scores = centred / np.array(self.deviations)[active, None]
        if self.how == "worst":
            worst: MemberScores = active_scores.min(0)
            return worst
        if self.how == "weighted":
            weighted_sum: MemberScores = np.array(self.weights_of(images=images), float)[active] @ active_scores
            return weighted_sum
        mean: MemberScores = active_scores.mean(0)
        if self.how == "pessimistic":
            mean -= self.k * active_scores.std(0)
        return mean

    def spread(self, scores: MemberScores, *, images: bool = True) -> MemberScores:
        """The standard deviation over active members, `(M, K)` to `(K,)`: the uncertainty of the ensemble."""
        deviation: MemberScores = scores[list(self.active_members(images=images))].std(0)
        return deviation

    def as_dict(self) -> dict[str, Any]:
        """The rule as a JSON object."""
        return asdict(self)


def read_rule(values: Mapping[str, Any]) -> Rule:
    """Builds a rule from the JSON object of `as_dict`.

    Raises:
        ModelError: the object is damaged.

    >>> read_rule(Rule("mean", members=2).as_dict()) == Rule("mean", members=2)
    True
    """
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        # JSON has no tuples, and rules are compared.
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return Rule(**arguments)
    except TypeError as error:
        raise ModelError(f"the ensemble's rule cannot be read: {error}") from error


def shares(values: Sequence[float]) -> tuple[float, ...]:
    """Weights that are proportional to values and sum to one (BaseReward, arXiv 2509.16127, section 5).

    Args:
        values: one for each member, such as its validation accuracy.

    Raises:
        ModelError: a value is negative or not finite, or all are 0.

    >>> shares([3.0, 1.0])
    (0.75, 0.25)
    """
    if not all(0 <= value < np.inf for value in values) or sum(values) <= 0:
        listed = ", ".join(f"{value:.4g}" for value in values)
        raise ModelError(
            f"there are no weights in proportion to {listed}: no value may be negative, and one must be above 0. Leave "
            "the member out, or use how=mean"
        )
    return tuple(value / sum(values) for value in values)
