"""Test the stage that runs the cells of another experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.cli.pipeline_text import format_pipeline
from basereward.errors import RecipeError, TrainingError
from basereward.pipelines.stages import sweep as stage
from basereward.recipe import make
from basereward.recipe.load import load_experiment

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def sweep_stage(**settings: Any) -> stage.Sweep:
    """The stage of `rl_rewards` on digits."""
    made = make({"_target_": "sweep", "experiment": "rl_rewards", "profile": "tiny", "settings": settings}, "stages")
    assert isinstance(made, stage.Sweep)
    return made


def test_settings_reach_every_cell() -> None:
    """Texts keep their type, an axis is replaced as a whole, and mappings are merged."""
    settings = {
        "model.start": "20260314-153012-9f2c41",
        "grid.objective.reward": {"rule": {"_target_": "rule"}, "mine": {"_target_": "model", "model": "1e3"}},
        "data": {"sources": {"digits": {"copies": 1}}},
    }
    cells = sweep_stage(**settings)._loaded().cells
    assert [cell.name for cell in cells] == ["reward=rule", "reward=mine"]
    assert {cell.recipe.model.start for cell in cells} == {"20260314-153012-9f2c41"}
    assert cells[1].recipe.objective["reward"]["model"] == "1e3"  # type: ignore[index]
    assert (
        cells[0].recipe.data.sources["digits"] | {"plain": True, "copies": 1} == cells[0].recipe.data.sources["digits"]
    )


def test_cells_are_checked_before_anything_runs(tmp_path: Path) -> None:
    """A fault of one of them is a fault of the stage."""
    assert sweep_stage().preview(tmp_path) == {"sweep": "a-sweep"}
    with pytest.raises(RecipeError, match="clip"):
        sweep_stage(**{"objective.clip": 2.0}).preview(tmp_path)
    with pytest.raises(RecipeError, match="size"):
        sweep_stage(**{"data.sources.digits.size": 5000}).preview(tmp_path)


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_failed_cell_fails_the_stage(status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are named in its facts, and its metrics have names that MLflow takes."""
    rows = [{"name": "reward=rule,seed=0", "run_id": "a", "status": status, "metrics": {"test/exact_match": 0.5}}]
    both = [{"name": "both", "run_id": "b", "status": "finished", "metrics": {"test/exact_match": 0.75}}]
    result = {"sweep_id": "s", "cells": rows, "ensembles": both, "differences": ["No difference."]}
    monkeypatch.setattr(stage, "sweep", lambda experiment: result)
    if status == "failed":
        with pytest.raises(TrainingError, match="reward=rule"):
            sweep_stage().run(tmp_path)
        return
    made = sweep_stage().run(tmp_path)
    measures = {"reward_rule_seed_0/test/exact_match": 0.5, "both/test/exact_match": 0.75}
    assert (made.outputs, made.metrics) == ({"sweep": "s"}, measures)
    stage_row = {"name": "compare", "does": "sweep", "status": status, "seconds": 1.0, "run_id": "c"}
    stages = [{**stage_row, "metrics": made.metrics, "facts": made.facts}]
    lines = [line.split() for line in format_pipeline({"pipeline_id": "p", "stages": stages})]
    assert ["reward=rule,seed=0", "finished", "0.5000", "a"] in lines
    assert ["both", "finished", "0.7500", "b"] in lines
    assert ["No", "difference."] in lines


def test_rl_reward_hands_its_models_to_every_reward() -> None:
    """The pipeline trains three reward models and a start first; a profile without a start begins from its backbone."""
    stages = {stage.name: stage for stage in load_experiment("rl_reward", profile="tiny").stages}
    assert set(stages["compare"].needs) == {"start", "reward_0", "reward_1", "reward_2"}
    large = load_experiment("rl_reward", profile="qwen2_5_vl_7b", overrides=["data.sources.pairs.path=x"])
    assert [stage.name for stage in large.stages] == ["reward_0", "reward_1", "reward_2", "compare"]


def test_the_stage_is_another_one_when_the_experiment_changes(tmp_path: Path) -> None:
    """Its definition has the recipes of the cells, so that an edited file is not taken for the finished sweep."""
    file = tmp_path / "mine.yaml"
    found = []
    for lr in ("1e-3", "1e-4", "1e-3"):
        file.write_text(f"include: basereward\noptimizer: {{lr: {lr}}}\ngrid: {{seeds.init: [0, 1]}}\n")
        found.append(stage.Sweep(experiment=str(file), profile="tiny").definitions())
    assert None not in (found[0]["cells"], found[1]["cells"])
    assert found[0] == found[2] != found[1]
    assert stage.Sweep(experiment=str(tmp_path / "gone.yaml")).definitions() == {"cells": None}
