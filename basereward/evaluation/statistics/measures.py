"""Measures: a share with what it was counted on, and how far it can be trusted."""

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


@dataclass(frozen=True)
class Measure:
    """A share between 0 and 1; NaN when it was counted on nothing.

    `numerator` is whole where items are counted and a sum of shares where shares are averaged. The interval covers 95 %
    and is worked out when it is asked for.
    """

    numerator: float
    denominator: float
    method: Literal["wilson", "bootstrap", "wald"] | None = None
    bounds: Callable[[], Interval] | None = field(default=None, compare=False, repr=False)
    ties: int = 0
    undecided: int = 0

    @property
    def value(self) -> float:
        return self.numerator / self.denominator if self.denominator else math.nan

    @cached_property
    def interval(self) -> Interval | None:
        return self.bounds() if self.bounds is not None and self.denominator else None

    def told(self) -> dict[str, Any]:
        """As JSON."""
        low, high = self.interval or (None, None)
        value = None if math.isnan(self.value) else self.value
        return {
            "value": value,
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
    """The share of right items, with Wilson's interval. A tie is wrong."""
    right = sum(each.is_right for each in judged)
    unsure = _count(judged, Decision.UNDECIDED)
    total = len(judged) - (unsure if undecided == "left_out" else 0)
    bounds = lambda: wilson(right, total)  # noqa: E731
    return Measure(right, total, "wilson", bounds, ties=_count(judged, Decision.TIE), undecided=unsure)


def per_vote(judged: Sequence[JudgedItem]) -> Measure:
    """The share of right votes among those that chose a response, all items together. The interval is by prompt."""
    rows = []
    for each in judged:
        votes = each.outcome.votes or ()
        right = sum(vote in each.item.right for vote in votes)
        rows.append((float(right), float(sum(vote is not None for vote in votes))))
    unsure = sum(vote is None for each in judged for vote in each.outcome.votes or ())
    right, decided = (int(sum(column)) for column in zip(*rows, strict=True)) if rows else (0, 0)
    return Measure(right, decided, "bootstrap", lambda: _by_prompt(judged, [rows]), undecided=unsure)


def all_right(judged: Sequence[JudgedItem]) -> Measure:
    """Acc+: the share of prompts whose items are all right. The interval is by prompt.

    A prompt of which an item was not scored is left out: whether all are right is not known.
    """
    whole = [items for items in by_prompt(judged).values() if len(items) >= items[0].item.prompt_items]
    counted = [each for items in whole for each in items]
    right = [float(all(each.is_right for each in items)) for items in whole]
    sums = np.array([[r, 1.0] for r in right])[:, None, :] if right else np.zeros((0, 1, 2))
    return Measure(
        int(sum(right)),
        len(right),
        "bootstrap",
        lambda: resampled(sums, np.ones(1)),
        ties=_count(counted, Decision.TIE),
        undecided=_count(counted, Decision.UNDECIDED),
    )


def mean_accuracy(
    categories: Mapping[str, Sequence[JudgedItem]],
    *,
    weights: Mapping[str, float] | None = None,
    undecided: Undecided = "wrong",
) -> Measure:
    """The mean of the categories' accuracies, equal in weight unless told. The interval is by prompt.

    Nothing is known, 0 of 0, when nothing is in one of the categories, or nothing was decided there.

    `numerator` is the weighted sum of the accuracies, `denominator` the sum of the weights.
    """
    weight = [1.0 if weights is None else weights[name] for name in categories]
    parts = [accuracy(judged, undecided=undecided) for judged in categories.values()]
    if not all(part.denominator for part in parts):  # of a category of which nothing was decided nothing is known
        return Measure(0, 0, undecided=sum(part.undecided for part in parts))
    total = sum(w * part.value for w, part in zip(weight, parts, strict=True))
    judged = [each for items in categories.values() for each in items]

    def bounds() -> Interval:
        rows = [
            [
                (float(each.is_right), float(undecided == "wrong" or each.decision is not Decision.UNDECIDED))
                if each.item.row in members
                else (0.0, 0.0)
                for each in judged
            ]
            for members in ({each.item.row for each in items} for items in categories.values())
        ]
        return _by_prompt(judged, rows, weights=np.array(weight))

    return Measure(
        total,
        sum(weight),
        "bootstrap",
        bounds,
        ties=_count(judged, Decision.TIE),
        undecided=_count(judged, Decision.UNDECIDED),
    )


def length_controlled(judged: Sequence[JudgedItem]) -> Measure:
    """Accuracy on pairs of equal length, as a logistic regression of being right on the difference in length says.

    The regressor is tanh of the difference in characters over its standard deviation, as in length-controlled
    AlpacaEval (arXiv 2404.04475, section 3); its slope is held back by a ridge of 1. The interval is Wald's.
    """
    right = np.array([each.is_right for each in judged], float)
    if not len(right) or right.min() == right.max():
        return Measure(float(right.sum()), len(right))
    differences = np.array([each.item.length_difference for each in judged], float)
    scale = differences.std()
    regressor = np.tanh(differences / scale)[:, None] if scale else np.zeros((len(right), 1))
    fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(regressor, right)
    intercept = float(fitted.intercept_[0])

    def bounds() -> Interval:
        chance = fitted.predict_proba(regressor)[:, 1]
        design = np.hstack([np.ones_like(regressor), regressor])
        information = design.T @ (design * (chance * (1 - chance))[:, None]) + np.diag([0.0, 1.0])
        spread = 1.959964 * math.sqrt(float(np.linalg.inv(information)[0, 0]))
        return _sigmoid(intercept - spread), _sigmoid(intercept + spread)

    return Measure(_sigmoid(intercept) * len(right), len(right), "wald", bounds, ties=_count(judged, Decision.TIE))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _count(judged: Sequence[JudgedItem], decision: Decision) -> int:
    return sum(each.decision is decision for each in judged)


def _by_prompt(
    judged: Sequence[JudgedItem],
    rows: Sequence[Sequence[tuple[float, float]]],
    *,
    weights: NDArray[np.float64] | None = None,
) -> Interval:
    """The interval of a weighted mean of ratios: `rows[c][i]` is what item i adds to numerator and denominator of c."""
    prompts = {name: place for place, name in enumerate(dict.fromkeys(each.item.prompt_id for each in judged))}
    sums = np.zeros((len(prompts), len(rows), 2))
    places = [prompts[each.item.prompt_id] for each in judged]
    for category, added in enumerate(rows):
        np.add.at(sums[:, category], places, np.array(added))
    return resampled(sums, np.ones(len(rows)) if weights is None else weights)
