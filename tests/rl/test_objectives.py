"""Test which settings of policy objectives go together, and the constants of R1-Reward."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.errors import RecipeError
from basereward.rl.objectives import CONSTANTS, PolicyObjective, grpo, reinforce_pp, stable_reinforce


def test_constants_of_the_paper_and_of_its_script_differ_in_three() -> None:
    """Learning rate, KL weight and epochs; both make two steps of 128 from 256 rollouts."""
    paper, released = CONSTANTS["paper"], CONSTANTS["released"]
    assert (paper.learning_rate, paper.beta, paper.epochs) == (1e-6, 0.0, 5)
    assert (released.learning_rate, released.beta, released.epochs) == (3e-7, 1e-3, 1)
    assert {(c.rollouts, c.batch, c.max_tokens, c.adam) for c in (paper, released)} == {(256, 128, 1024, (0.9, 0.95))}


def test_objectives_differ_in_baseline_clips_and_place_of_the_penalty() -> None:
    """StableReinforce is REINFORCE++ with the pre-clip and the filter."""
    stable, plain = stable_reinforce(beta=1e-3), reinforce_pp(beta=1e-3)
    assert (stable.ratio_bounds, stable.filter) == ((1e-3, 1e3), "paper")
    assert (plain.ratio_bounds, plain.filter) == (None, "off")
    assert stable.baseline == plain.baseline == "batch"
    assert stable.kl == plain.kl == "reward"
    assert (grpo().baseline, grpo().kl, grpo().filter) == ("group", "loss", "off")


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": -0.1},
        {"beta": float("nan")},
        {"clip": 0.0},
        {"clip": 1.0},
        {"ratio_bounds": (0.0, 10.0)},
        {"ratio_bounds": (2.0, 10.0)},
        {"ratio_bounds": (0.1, float("inf"))},
        {"filter": "papers"},
        {"baseline": "group", "filter": "paper"},
        {"baseline": "group", "beta": 0.1},
        {"kl": "loss", "beta": 0.1, "ratio_bounds": (0.1, 10.0)},
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any]) -> None:
    """Each of them would train something else than its name says."""
    with pytest.raises(RecipeError, match="mine" if "papers" not in settings.values() else "paper"):
        PolicyObjective("mine", **{"baseline": "batch", "kl": "reward", **settings})
