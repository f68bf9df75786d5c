"""Measures: shares with their counts and 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from basereward.evaluation.items import Decision, JudgedItem, by_prompt
from basereward.metrics.interval import Interval, resampled, wilson

Undecided: TypeAlias = Literal["wrong", "left_out"]
# The 97.5 % quantile of the normal distribution.
Z_95 = 1.959964


@dataclass(frozen=True)
class Measure:
    """A share between 0 and 1; NaN if its denominator is 0.

    `numerator` is a whole number if items are counted, and a sum of shares if shares are averaged. The 95 % interval is
    computed when it is first read.

    >>> measure = Measure(3, 4)
    >>> measure.value, measure.interval
    (0.75, None)
    """

    numerator: float
    denominator: float
    method: Literal["wilson", "bootstrap", "wald"] | None = None
    bounds: Callable[[], Interval] | None = field(default=None, compare=False, repr=False)
    ties: int = 0
    undecided: int = 0

    @property
    def value(self) -> float:
        """The share."""
        return self.numerator / self.denominator if self.denominator else math.nan

    @cached_property
    def interval(self) -> Interval | None:
        """The bounds of the 95 % interval; None if the measure has none."""
        return self.bounds() if self.bounds is not None and self.denominator else None

    def as_dict(self) -> dict[str, Any]:
        """The measure as JSON.

        >>> Measure(0, 0).as_dict()["value"] is None
        True
        """
        low, high = self.interval or (None, None)
        return {
            # JSON has no NaN.
            "value": None if math.isnan(self.value) else self.value,
            "numerator": self.numerator,
            "denominator": self.denominator,
            "low": low,
            "high": high,
            "interval": self.method if self.interval else None,
            "ties": self.ties,
            "undecided": self.undecided,
        }


Measures: TypeAlias = dict[str, Measure]
Variant: TypeAlias = Callable[[Sequence[JudgedItem]], Measures]


def accuracy(judged: Sequence[JudgedItem], *, undecided: Undecided = "wrong") -> Measure:
    """The share of right items, with Wilson's interval. A tie counts as wrong.

    Args:
        judged: items with outcomes.
        undecided: whether undecided items count as wrong or are left out of the denominator.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> accuracy([JudgedItem(item, Outcome(correct=True)), JudgedItem(item, Outcome(correct=False))]).value
    0.5
    """
    right = sum(judged_item.is_right for judged_item in judged)
    unsure = _count(judged, Decision.UNDECIDED)
    total = len(judged) - (unsure if undecided == "left_out" else 0)
    return Measure(
        right, total, "wilson", lambda: wilson(right, total), ties=_count(judged, Decision.TIE), undecided=unsure
    )


def per_vote(judged: Sequence[JudgedItem]) -> Measure:
    """The share of right votes among all votes that chose a response. The interval is over prompts.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> measure = per_vote([JudgedItem(item, Outcome(votes=(0, 1, None)))])
    >>> measure.value, measure.undecided
    (0.5, 1)
    """
    rows: list[tuple[float, float]] = []
    unsure = 0
    for judged_item in judged:
        votes = judged_item.outcome.votes or ()
        right = sum(vote in judged_item.item.right for vote in votes)
        undecided = votes.count(None)
        rows.append((float(right), float(len(votes) - undecided)))
        unsure += undecided
    right_votes, decided_votes = int(sum(right for right, _ in rows)), int(sum(decided for _, decided in rows))
    return Measure(right_votes, decided_votes, "bootstrap", lambda: _prompt_interval(judged, [rows]), undecided=unsure)


def all_right(judged: Sequence[JudgedItem]) -> Measure:
    """Acc+ (arXiv 2502.10391): the share of prompts whose items are all right. The interval is over prompts.

    A prompt with an item that was not scored is left out, because it is unknown whether all of them are right.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> all_right([JudgedItem(item, Outcome(correct=True)), JudgedItem(item, Outcome(correct=False))]).value
    0.0
    """
    complete = [members for members in by_prompt(judged).values() if len(members) >= members[0].item.prompt_items]
    right = [float(_are_all_right(members)) for members in complete]
    sums = np.array([[value, 1.0] for value in right])[:, None, :] if right else np.zeros((0, 1, 2))
    return Measure(
        int(sum(right)),
        len(right),
        "bootstrap",
        lambda: resampled(sums, np.ones(1)),
        ties=sum(_count(members, Decision.TIE) for members in complete),
        undecided=sum(_count(members, Decision.UNDECIDED) for members in complete),
    )


def mean_accuracy(
    categories: Mapping[str, Sequence[JudgedItem]],
    *,
    weights: Mapping[str, float] | None = None,
    undecided: Undecided = "wrong",
) -> Measure:
    """The weighted mean of the categories' accuracies. The interval is over prompts.

    It is NaN if a category has no items, or no decided ones.

    Args:
        categories: items with outcomes, by category.
        weights: of the categories; equal by default.
        undecided: as for `accuracy`.

    Returns:
        A measure whose numerator is the weighted sum of the accuracies, and whose denominator is the sum of the
        weights.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> right, wrong = (JudgedItem(item, Outcome(correct=correct)) for correct in (True, False))
    >>> mean_accuracy({"math": [right, wrong], "chat": [right]}).value
    0.75
    """
    category_weights = [1.0 if weights is None else weights[name] for name in categories]
    parts = [accuracy(members, undecided=undecided) for members in categories.values()]
    if not all(part.denominator for part in parts):
        return Measure(0, 0, undecided=sum(part.undecided for part in parts))
    total = sum(weight * part.value for weight, part in zip(category_weights, parts, strict=True))
    judged: list[JudgedItem] = []
    for members in categories.values():
        judged += members

    def bounds() -> Interval:
        rows = [_category_rows(judged, members, undecided) for members in categories.values()]
        return _prompt_interval(judged, rows, weights=np.array(category_weights))

    return Measure(
        total,
        sum(category_weights),
        "bootstrap",
        bounds,
        ties=_count(judged, Decision.TIE),
        undecided=_count(judged, Decision.UNDECIDED),
    )


def length_controlled(judged: Sequence[JudgedItem]) -> Measure:
    """Accuracy on pairs of equal length, estimated by a logistic regression of being right on the length difference.

    The regressor is tanh of the difference in characters over its standard deviation, as in length-controlled
    AlpacaEval (arXiv 2404.04475, section 3). Its slope has a ridge penalty of 1. The interval is Wald's.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> right, wrong = (JudgedItem(item, Outcome(correct=correct)) for correct in (True, False))
    >>> round(length_controlled([right, wrong]).value, 3)  # both answers have one character
    0.5
    """
    right = np.array([judged_item.is_right for judged_item in judged], float)
    # A regression on one class has no finite solution.
    if not len(right) or right.min() == right.max():
        return Measure(float(right.sum()), len(right))
    differences = np.array([judged_item.item.length_difference for judged_item in judged], float)
    scale = differences.std()
    regressor = np.tanh(differences / scale)[:, None] if scale else np.zeros((len(right), 1))
    fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(regressor, right)
    # At a length difference of 0 the regressor is 0, which leaves the intercept.
    intercept = float(fitted.intercept_[0])

    def bounds() -> Interval:
        chance = fitted.predict_proba(regressor)[:, 1]
        design = np.hstack([np.ones_like(regressor), regressor])
        # The Fisher information, plus the ridge, which applies to the slope only.
        information = design.T @ (design * (chance * (1 - chance))[:, None]) + np.diag([0.0, 1.0])
        spread = Z_95 * math.sqrt(float(np.linalg.inv(information)[0, 0]))
        return _sigmoid(intercept - spread), _sigmoid(intercept + spread)

    return Measure(_sigmoid(intercept) * len(right), len(right), "wald", bounds, ties=_count(judged, Decision.TIE))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _count(judged: Sequence[JudgedItem], decision: Decision) -> int:
    return sum(judged_item.decision is decision for judged_item in judged)


def _are_all_right(judged: Sequence[JudgedItem]) -> bool:
    return all(judged_item.is_right for judged_item in judged)


def _category_rows(
    judged: Sequence[JudgedItem], members: Sequence[JudgedItem], undecided: Undecided
) -> list[tuple[float, float]]:
    """For each judged item its contribution to numerator and denominator of one category; (0, 0) if not a member."""
    member_rows = {judged_item.item.row for judged_item in members}
    rows: list[tuple[float, float]] = []
    for judged_item in judged:
        is_member = judged_item.item.row in member_rows
        is_counted = undecided == "wrong" or judged_item.decision is not Decision.UNDECIDED
        rows.append((float(is_member and judged_item.is_right), float(is_member and is_counted)))
    return rows


def _prompt_interval(
    judged: Sequence[JudgedItem],
    rows: Sequence[Sequence[tuple[float, float]]],
    *,
    weights: NDArray[np.float64] | None = None,
) -> Interval:
    """The interval over prompts of a weighted mean of ratios.

    Args:
        judged: items with outcomes.
        rows: `rows[c][i]` is the contribution of item i to numerator and denominator of ratio c.
        weights: of the ratios; equal by default.
    """
    places: dict[str, int] = {}
    for judged_item in judged:
        places.setdefault(judged_item.item.prompt_id, len(places))
    # Of shape (prompts, ratios, 2): numerators and denominators.
    sums = np.zeros((len(places), len(rows), 2))
    prompts = [places[judged_item.item.prompt_id] for judged_item in judged]
    for ratio, contributions in enumerate(rows):
        # `np.add.at`, because `sums[prompts] += values` would count a repeated prompt once.
        np.add.at(sums[:, ratio], prompts, np.array(contributions))
    return resampled(sums, np.ones(len(rows)) if weights is None else weights)
