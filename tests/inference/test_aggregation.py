"""Aggregation rules of ensembles, compared with scores calculated by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from basereward.errors import ModelError
from basereward.inference.aggregation import Rule, read_rule, shares

# Shape (members, responses): three members, two responses.
SCORES = np.array([[1.0, 4.0], [2.0, 0.0], [3.0, 8.0]])
ROUTES: dict[str, Any] = {"members": 3, "text": (0,), "image": (1, 2)}


def test_weights_are_not_normalised() -> None:
    """With images the scores are 0.5 * 2 - 2 * 3 and 0.5 * 0 - 2 * 8; without images 1.5 times the first member's
    scores. Weights are neither rescaled nor negated to make their sum one."""
    rule = Rule("weighted", weights=(0.0, 0.5, -2.0), text_weights=(1.5, 0.0, 0.0), **ROUTES)
    assert rule.combine(SCORES, images=True).tolist() == [-5.0, -16.0]
    assert rule.combine(SCORES, images=False).tolist() == [1.5, 6.0]
    assert (rule.weights_of(images=True), rule.weights_of(images=False)) == ((0.0, 0.5, -2.0), (1.5, 0.0, 0.0))


def test_weights_may_sum_to_zero() -> None:
    """Weights 1 and -1 give the difference of two members."""
    rule = Rule("weighted", members=2, weights=(1.0, -1.0))
    assert rule.combine(SCORES[:2]).tolist() == [-1.0, 4.0]


def test_mean_uses_the_members_of_the_route() -> None:
    """`mean` averages the members of the route and reports their weights; `worst` has no weights."""
    rule = Rule("mean", **ROUTES)
    assert rule.combine(SCORES, images=True).tolist() == [2.5, 4.0]
    assert (rule.weights_of(images=True), rule.weights_of(images=False)) == ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0))
    assert Rule("worst", **ROUTES).weights_of(images=True) == (None, None, None)


def test_intervals_are_reported_for_members_of_the_route() -> None:
    """Members outside of the route have no interval, and a rule without learned weights has none."""
    image_intervals = ((0.0, 0.0), (0.1, 0.9), (-3.0, -1.0))
    text_intervals = ((1.0, 2.0), (0.0, 0.0), (0.0, 0.0))
    rule = Rule(
        "weighted",
        weights=(0, 0.5, -2),
        text_weights=(1.5, 0, 0),
        intervals=image_intervals,
        text_intervals=text_intervals,
        **ROUTES,
    )
    assert rule.intervals_of(images=True) == (None, (0.1, 0.9), (-3.0, -1.0))
    assert rule.intervals_of(images=False) == ((1.0, 2.0), None, None)
    assert Rule("mean", members=2).intervals_of(images=False) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"how": "weighted", "weights": (1.0, 0.0, 1.0), "text_weights": (0.0, 1.0, 0.0), **ROUTES},
            r"without images all weights are 0 \(members 0\)",
            id="no weight for text",
        ),
        pytest.param(
            {"how": "weighted", "weights": (1.0, 0.0, 0.0), "text_weights": (1.0, 0.0, 0.0), **ROUTES},
            r"with images all weights are 0 \(members 1, 2\)",
            id="no weight for pictures",
        ),
        pytest.param({"how": "weighted", "weights": (0.0, 0.0), "members": 2}, "all weights are 0", id="no weight"),
        pytest.param(
            {"how": "weighted", "weights": (1.0, 0.5, 2.0), **ROUTES},
            "text_weights has 0",
            id="routes without weights of their own",
        ),
        pytest.param({"how": "weighted", "weights": (1.0, np.nan), "members": 2}, "must be finite", id="nan weight"),
        pytest.param(
            {"how": "standardised", "means": (0.0, 0.0), "deviations": (1.0, np.nan), "members": 2},
            "deviations must be finite",
            id="nan spread",
        ),
        pytest.param(
            {"how": "standardised", "means": (0.0, 0.0), "deviations": (1.0, 0.0), "members": 2},
            "cannot be standardised",
            id="no spread",
        ),
        pytest.param({"how": "pessimistic", "k": np.nan, "members": 2}, "k is nan", id="nan k"),
        pytest.param({"how": "pessimistic", "k": -1.0, "members": 2}, "k is -1.*at least 0", id="negative k"),
    ],
)
def test_invalid_rule_is_refused(arguments: dict[str, Any], message: str) -> None:
    """The constructor refuses weights, deviations and `k` that give no finite score."""
    with pytest.raises(ModelError, match=message):
        Rule(**arguments)


def test_rule_survives_a_round_trip() -> None:
    """`read_rule` restores a rule from its dictionary, with its routes and weights."""
    rule = Rule("weighted", weights=(0.0, 0.5, -2.0), text_weights=(1.5, 0.0, 0.0), **ROUTES)
    assert read_rule(rule.as_dict()) == rule


@pytest.mark.parametrize("values", [(0.5, -0.1), (0.0, 0.0), (0.5, np.nan), (np.inf, 1.0)])
def test_invalid_shares_are_refused(values: tuple[float, ...]) -> None:
    """Shares of 1 and 3 are 0.25 and 0.75; negative, all-zero and non-finite values are refused."""
    assert shares([1.0, 3.0]) == (0.25, 0.75)
    with pytest.raises(ModelError, match="in proportion to"):
        shares(values)
