"""Test which metrics of a policy are signs of a collapse, each said once."""

from __future__ import annotations

import pytest

from basereward.rl.collapse import CollapseWatch

HEALTHY = {
    "entropy": 2.0,
    "completions/mean_length": 60.0,
    "completions/clipped_ratio": 0.1,
    "reward_std": 0.4,
    "rewards/unscored": 0.0,
    "filter/dropped_wrong": 0.5,
}


@pytest.mark.parametrize(
    ("name", "value", "sign"),
    [
        ("entropy", 0.19, "entropy"),
        ("completions/mean_length", 11.0, "length"),
        ("completions/mean_length", 241.0, "length"),
        ("completions/clipped_ratio", 0.8, "truncated"),
        ("reward_std", 0.0, "constant"),
        ("rewards/unscored", 0.01, "unscored"),
        ("filter/dropped_wrong", 1.0, "filter"),
    ],
)
def test_each_sign_is_named_once(name: str, value: float, sign: str) -> None:
    """Against the first step: a tenth of the entropy, a fifth or four times the length."""
    watch = CollapseWatch()
    assert watch.observe(HEALTHY) == []
    sick = HEALTHY | {name: value}
    assert len(watch.observe(sick)) == 1
    assert watch.warned == {sign}
    assert watch.observe(sick) == []


def test_metrics_that_are_missing_or_none_are_no_sign() -> None:
    """TRL logs None where a step has no value, and the first entropy may be 0."""
    watch = CollapseWatch()
    assert watch.observe({"entropy": 0.0, "completions/clipped_ratio": None, "reward_std": None}) == []
    assert watch.observe({"entropy": 0.0}) == []
