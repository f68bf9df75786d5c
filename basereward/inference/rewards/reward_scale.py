"""Scales of rewards: raw scores, standardised ones, and numbers between 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from basereward.errors import DataError, unknown

Scale: TypeAlias = Literal["raw", "standardised", "sigmoid"]
SCALES: tuple[Scale, ...] = get_args(Scale)


def scaled(
    scores: Sequence[float], scale: Scale, *, statistics: Mapping[str, float], clip: float | None = None
) -> list[float]:
    """Scores on another scale. All scales keep the order of scores.

    Args:
        scores: of the model.
        scale: `raw`; `standardised`, less the mean and over the standard deviation of the model's scores on validation
            data; `sigmoid`, 1 / (1 + exp(-score)).
        statistics: `mean` and `std` of these scores, from the saved model.
        clip: the largest absolute value; None: no limit.

    Raises:
        DataError: an unknown scale, a limit that is not positive, or a model without statistics.

    >>> scaled([1.0, 5.0], "standardised", statistics={"mean": 1.0, "std": 2.0}, clip=1.5)
    [0.0, 1.5]
    >>> scaled([0.0], "sigmoid", statistics={})
    [0.5]
    """
    if scale not in SCALES:
        raise DataError(unknown("scale", str(scale), SCALES))
    if clip is not None and not clip > 0:
        raise DataError(f"clip {clip}: a positive number is needed")
    if scale == "standardised":
        scores = _standardised(scores, statistics)
    elif scale == "sigmoid":
        scores = list(map(_sigmoid, scores))
    if clip is not None:
        scores = [max(-clip, min(clip, score)) for score in scores]
    return list(scores)


def _standardised(scores: Sequence[float], statistics: Mapping[str, float]) -> list[float]:
    """
    Raises:
        DataError: the model was saved without statistics, or its scores were all equal.
    """
    if not statistics.get("std"):
        raise DataError("the model was saved without the mean and the spread of its scores; use the scale raw")
    return [(score - statistics["mean"]) / statistics["std"] for score in scores]


def _sigmoid(score: float) -> float:
    # The second form does not overflow for a score far below 0.
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))
