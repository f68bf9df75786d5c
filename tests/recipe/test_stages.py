"""Test the key `stages` of an experiment: order, references, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import RecipeError
from basereward.recipe import find_experiment, load_experiment, load_recipe, recipe_from_yaml, recipe_yaml
from basereward.recipe.stages import resolved

PROFILE = str(Path(__file__).parents[1] / "small.yaml")
BASE = """
# Stages of a test.
include: basereward
stages:
  second:
    _target_: train
    recipe:
      data: {sources: {numbers: null, hard: {_target_: jsonl, path: "${hard.rows}"}}}
      optimizer: {lr: 0.5}
      trainer: {clip: "${optimizer.lr}"}
  hard: {_target_: select, rows: ["${annotate.rows}", "${annotate.unsolved}"], at_least: 2}
  annotate: {_target_: annotate, source: {_target_: numbers, size: 8}, model: judge, endpoint: "http://localhost:1/v1"}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment with three stages in the wrong order."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))
    experiment = tmp_path / "chain.yaml"
    experiment.write_text(BASE.strip())
    return experiment


def faults(file: Path, *overrides: str) -> list[tuple[str, str]]:
    """The stage and the key of every fault."""
    found = find_experiment(str(file), profile=PROFILE, overrides=overrides)[1]
    return [(fault.cell, fault.key) for fault in found]


def test_stages_run_after_those_that_they_need(file: Path) -> None:
    """The order is that of the references; arguments have their defaults; the recipe keeps its references as text, also
    through a file, and resolves those to its own keys."""
    experiment = load_experiment(str(file), profile=PROFILE)
    assert [(stage.name, stage.needs) for stage in experiment.stages] == [
        ("annotate", ()),
        ("hard", ("annotate",)),
        ("second", ("hard",)),
    ]
    assert experiment.stages[0].node["attempts"] == 3
    (cell,) = experiment.cells
    assert cell.recipe == experiment.stages[2].recipe
    assert list(cell.recipe.data.sources) == ["hard"]
    assert cell.recipe.data.sources["hard"]["path"] == "${hard.rows}"
    assert cell.recipe.trainer.clip == 0.5
    assert recipe_from_yaml(recipe_yaml(cell.recipe)) == cell.recipe
    outputs = {"hard": {"rows": "hard.jsonl"}}
    assert resolved(cell.recipe.data.sources["hard"], outputs)["path"] == "hard.jsonl"


def test_override_of_one_stage_and_of_all(file: Path) -> None:
    """A key of a stage changes that stage; a key of the recipe changes every stage that trains, and wins."""
    changes = ["stages.hard.at_least=3", "stages.second.recipe.optimizer.lr=0.25", "batch.groups=4"]
    experiment = load_experiment(str(file), profile=PROFILE, overrides=changes)
    assert experiment.stages[1].node["at_least"] == 3.0
    assert (experiment.cells[0].recipe.optimizer.lr, experiment.cells[0].recipe.batch.groups) == (0.25, 4)
    changed = load_experiment(str(file), profile=PROFILE, overrides=["optimizer.lr=0.125"])
    assert changed.cells[0].recipe.optimizer.lr == 0.125


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("stages.hard.rows=${annotations.rows}", ("hard", "stages.hard.rows")),
        ("stages.hard.rows=${annotate.row}", ("hard", "stages.hard.rows")),
        ("stages.hard.rows=${hard.rows}", ("hard", "stages.hard.rows")),
        ("stages.annotate.model=${second.run}", ("*", "stages")),
        ("stages.hard.at_lest=2", ("hard", "stages.hard.at_lest")),
        ("stages.hard._target_=selection", ("hard", "stages.hard._target_")),
        ("stages.second.recipe.optimizer.lrr=1", ("second", "stages.second.recipe.optimizer.lrr")),
        (
            "stages.second.recipe.data.sources.hard.path=${hardd.rows}",
            ("second", "stages.second.recipe.data.sources.hard.path"),
        ),
        ("stages.data={_target_: select, rows: a.jsonl, limit: 1}", ("data", "stages.data")),
        ("stages.hard=7", ("hard", "stages.hard")),
        ("grid={optimizer.lr: [1, 2]}", ("*", "grid")),
        ("seeds=[0, 1]", ("*", "seeds")),
    ],
)
def test_wrong_stage_is_refused(file: Path, override: str, where: tuple[str, str]) -> None:
    """The fault names the stage and the key, before anything is imported or run."""
    assert where in faults(file, override)


def test_null_removes_a_stage(file: Path) -> None:
    """A stage that needs the removed one has a fault; without both, the first is left."""
    assert ("second", "stages.second.recipe.data.sources.hard.path") in faults(file, "stages.hard=null")
    experiment = load_experiment(str(file), profile=PROFILE, overrides=["stages.hard=null", "stages.second=null"])
    assert [stage.name for stage in experiment.stages] == ["annotate"]
    assert (experiment.name, experiment.summary, experiment.cells) == ("chain", "Stages of a test.", [])


@pytest.mark.parametrize("profile", [PROFILE, None])
def test_stage_has_the_profile_of_the_experiment(file: Path, profile: str | None) -> None:
    """`${profile}` is the profile as it was given, null without one; a recipe has no such key."""
    compare = "stages.compare={_target_: sweep, experiment: head_depth, profile: '${profile}'}"
    experiment, _ = find_experiment(str(file), profile=profile, overrides=[compare])
    assert experiment.stages[-1].node["profile"] == profile
    assert ("second", "stages.second.recipe.name") in faults(file, "stages.second.recipe.name=${profile}")


def test_experiment_with_stages_is_no_recipe(file: Path) -> None:
    """`load_recipe` refuses it and names the command that runs it."""
    with pytest.raises(RecipeError, match="basereward train"):
        load_recipe(str(file), profile=PROFILE)
