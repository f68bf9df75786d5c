"""Test the section about reinforcement learning: over-optimisation, length, rewards of right and wrong, the warning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.reports.experiment.reinforcement.policies import drifts, policies
from basereward.recipe import load_experiment
from tests.helpers.experiment_runs import finished_run

STEPS = range(1, 21)


def run_of(**curves: Sequence[float]) -> Any:
    """A run that has recorded curves; `__` stands for a slash."""
    return SimpleNamespace(
        curves={name.replace("__", "/"): list(zip(STEPS, values, strict=False)) for name, values in curves.items()}
    )


def contender(name: str, *, wrong: float, accuracy: Sequence[float], rewards: Sequence[float]) -> Contender:
    """A recipe with one run, whose mean reward of wrong answers does not change."""
    run = run_of(
        train__reward=rewards,
        train__policy__exact_match=accuracy,
        val__exact_match=accuracy,
        val__reward=rewards,
        train__policy__reward_right=[0.95] * 20,
        train__policy__reward_wrong=[wrong] * 20,
        train__policy__reward_wrong_p10=[wrong - 0.1] * 20,
        train__policy__reward_wrong_p90=[wrong + 0.05] * 20,
        train__policy__wrong_probability=[wrong] * 20,
    )
    run.curves["train/completions/mean_length"] = [(step, 10.0 + 2 * step) for step in STEPS]
    return Contender(name, results=[], trained=[run])


RISING = [0.1 + 0.04 * step for step in range(20)]
FALLING = [0.1 + 0.06 * min(step, 10) - 0.05 * max(step - 10, 0) for step in range(20)]


def test_reward_that_rises_while_accuracy_falls_is_marked() -> None:
    """Accuracy rises from 10 to 70 % and ends at 25 %, the reward rises throughout; the other run only rises."""
    hacked = contender("hacked", wrong=0.4, accuracy=FALLING, rewards=RISING)
    honest = contender("honest", wrong=0.4, accuracy=RISING, rewards=RISING)
    (drift,) = drifts(hacked)
    assert (drift.first, drift.best, drift.last) == pytest.approx((0.1, 0.7, 0.25))
    assert (drift.reward_at_best, drift.reward_at_last) == pytest.approx((RISING[10], RISING[19]))
    assert [drifts(one)[0].is_over_optimised for one in (hacked, honest)] == [True, False]
    section = policies([hacked, honest])
    assert section is not None
    text = re.sub(r"<[^>]*>", " ", section.html())
    assert text.count("over-optimised") == 1
    # The last two of twenty steps over the first two.
    assert f"{(48 + 50) / (12 + 14):.2f}" in text
    assert "warning" not in section.html()
    names = [drawing.name for drawing in section.drawings]
    assert names == ["reward", "true", "held_out", "rollout_length", "over_optimisation", "rewards_0", "rewards_1"]


def test_wrong_answers_with_rewards_near_1_are_warned_about_with_remedies() -> None:
    """The message names the recipe, calibration, centring and ensembles."""
    section = policies([contender("overrated", wrong=0.93, accuracy=RISING, rewards=RISING)])
    assert section is not None
    (warning,) = re.findall(r'<p class="warning">(.*?)</p>', section.html())
    for part in ("overrated (0.93)", "scale=calibrated", "centring", "ensemble"):
        assert part in warning


def test_runs_without_rollouts_have_no_section() -> None:
    """As those of reward models."""
    assert policies([Contender("linear", results=[], trained=[run_of(train__loss=[0.7])])]) is None


def test_curves_are_read_from_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that a run records are those that the section reads."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[4] / "experiments"))
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("basereward", profile="tiny")
    run = finished_run(experiment.cells[0])
    values = {"train/policy/exact_match": 0.25, "val/exact_match": 0.5, "val/reward": 0.4}
    run.journal.append([{"kind": "metrics", "step": 7, "time": 0, "values": values}])
    section = policies(gather(experiment))
    assert section is not None
    assert "50.0" in section.html()
