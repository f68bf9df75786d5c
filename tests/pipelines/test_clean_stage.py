"""Test the stage that cleans rows: who scores what, what is decided, when it stops, and SIGKILL between."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basereward.cli import main
from basereward.data.curation.label_errors import confident_threshold
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError, RecipeError
from basereward.inference.load_model import load
from basereward.pipelines.check import stage_findings
from basereward.pipelines.definition import made_stage
from basereward.pipelines.run import resume_pipeline, run_pipeline
from basereward.pipelines.stages.clean import Clean
from basereward.recipe import load_experiment
from basereward.runs.listing import listed_runs
from basereward.runs.run_folder import find, list_runs
from basereward.sweeps.resume import resume
from tests.helpers.forked_program import fork_context
from tests.helpers.killed_process import Moment, kill_at
from tests.helpers.pipelines import PROFILE, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

STAGES = """
# Cleans questions about numbers.
include: basereward
trainer: {steps: 2, validations: 1}
stages:
  clean:
    _target_: clean
    folds: 2
    models: 2
    rounds: 1
    recipe:
      data:
        sources:
          numbers: {_target_: noisy, source: {include: sources/numbers, size: 40, val_size: 12}, copied: 0.1}
  final:
    _target_: train
    recipe:
      data:
        sources:
          numbers:
            _target_: jsonl
            path: "${clean.rows}/numbers.jsonl"
            val: "${clean.held_out}/numbers.jsonl"
            test: 0.0
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pipeline, in the working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cleaned.yaml").write_text(STAGES.strip())
    return str(tmp_path / "cleaned.yaml")


def run(file: str, *overrides: str) -> dict[str, Any]:
    """Run the pipeline in this process; give its stages by name."""
    result = run_pipeline(load_experiment(file, profile=PROFILE, overrides=overrides))
    return {stage["name"]: stage for stage in result["stages"]}


def rows_of(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def decided_by_hand(models: list[str], rows: Path) -> dict[tuple[str, int, int], tuple[float, str]]:
    """The margin and the decision of every preference, from the mean of the scores of the two models that did not see
    its fold."""
    margins: dict[tuple[str, int, int], float] = {}
    for fold in (0, 1):
        groups = list(read_rows(str(rows / f"numbers.fold{fold}.jsonl")))
        first, second = (
            list(load(str(find(model).model)).score_groups(groups)) for model in models[2 * fold : 2 * fold + 2]
        )
        assert first != second
        for group, *scores in zip(groups, first, second, strict=True):
            mean = np.mean(scores, axis=0)
            for one in group.preferences:
                margins[group.id, one.winner, one.loser] = float(mean[one.winner] - mean[one.loser])
    threshold = confident_threshold(list(margins.values()))
    return {key: (value, "drop" if value < 0 and value <= -threshold else "keep") for key, value in margins.items()}


def test_killed_and_resumed_cleaning_scores_what_its_models_did_not_see(file: str) -> None:
    """SIGKILL in the second training and before the scores of the fourth model, each time followed by the same command:
    every model has one finished run. The decisions are those of a computation by hand from the finished models; no
    prompt of a fold is in the rows that its model was trained on, and no held-out one in either."""
    for moment in (
        Moment("basereward.training.module:RewardModule.training_step", call=4),
        Moment("basereward.pipelines.cleaning.rounds:Cleaning._score", call=4),
    ):
        process = fork_context().Process(target=_run_killed, args=(dict(os.environ), os.getcwd(), file, moment))
        process.start()
        process.join()
        assert process.exitcode == -9
    (pipeline,) = list_runs(kind="pipeline")
    stages = {stage["name"]: stage for stage in resume(pipeline.run_id, continue_pipeline=resume_pipeline)["stages"]}
    finished = Counter(row.cell for row in listed_runs() if row.state == "finished" and row.kind == "run")
    assert sorted(finished.values()) == [1] * 9  # two rounds of two models for each of two folds, and the final one
    facts, outputs = stages["clean"]["facts"], stages["clean"]["outputs"]
    work = Path(outputs["rows"]).parent / "work"
    expected = decided_by_hand(facts["rounds"][0]["runs"], work)
    decisions = rows_of(outputs["decisions"])
    found = {(row["id"], row["winner"], row["loser"]): (row["margin"], row["decision"]) for row in decisions}
    assert {key: one[1] for key, one in found.items()} == {key: one[1] for key, one in expected.items()}
    assert [one[0] for one in found.values()] == pytest.approx([expected[key][0] for key in found], abs=1e-5)
    assert len(expected) >= 60
    dropped = sum(one[1] == "drop" for one in expected.values())
    assert facts["rounds"][1]["dropped"] == dropped > 0
    held_out = {json.dumps(row["prompt"]) for row in rows_of(Path(outputs["held_out"]) / "numbers.jsonl")}
    for fold in (0, 1):
        own = {json.dumps(row["prompt"]) for row in rows_of(work / f"numbers.fold{fold}.jsonl")}
        for number in (0, 1):
            trained = {
                json.dumps(row["prompt"]) for row in rows_of(work / f"numbers.round{number}.without{fold}.jsonl")
            }
            assert trained
            assert not trained & (own | held_out)
    preferences = [len(group.preferences) for group in read_rows(str(Path(outputs["rows"]) / "numbers.jsonl"))]
    assert sum(preferences) == len(expected) - (dropped if facts["round"] == 1 else 0)
    assert {row["applied"] for row in decisions} == {facts["round"] == 1}


def _run_killed(environment: dict[str, str], folder: str, file: str, moment: Moment) -> None:
    os.environ.update(environment)  # the fork server has the environment of the first test
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    kill_at(moment)
    run(file)


def test_rows_of_all_sources_are_inputs(tmp_path: Path) -> None:
    """Models are also trained on sources that are not cleaned, so other rows there are another stage."""
    for name in ("cleaned", "beside"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\n')
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("cleaned", "beside")}
    recipe = {"data": {"sources": {name: {"_target_": "jsonl", "path": path} for name, path in paths.items()}}}
    assert sorted(map(str, Clean(recipe=recipe, sources=["cleaned"]).inputs())) == sorted(paths.values())


def test_a_cleaning_that_does_not_help_changes_nothing(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where held-out rows are not ranked better by more than `gain`, it stops after one round of three, and the rows
    are those given, copies included. With `drop` 0 and `flip` 0 every preference that a model contradicts would have
    been turned round. A second call repeats nothing."""
    changes = ["models=1", "gain=0.99", "rounds=3", "drop=0", "flip=0"]
    overrides = [f"stages.clean.{change}" for change in changes]
    stages = run(file, *overrides, "stages.final=null")
    facts, outputs = stages["clean"]["facts"], stages["clean"]["outputs"]
    decisions = rows_of(outputs["decisions"])
    assert (facts["round"], len(facts["rounds"]), facts["kept"]) == (0, 2, {"numbers": 44})
    groups = list(read_rows(str(Path(outputs["rows"]) / "numbers.jsonl")))
    assert sum(group.id.endswith("~copy") for group in groups) == 4
    kept = {(group.id, one.winner, one.loser) for group in groups for one in group.preferences}
    assert kept == {(row["id"], row["winner"], row["loser"]) for row in decisions}
    contradicted = sum(row["margin"] < 0 for row in decisions)
    assert (facts["rounds"][1]["dropped"], facts["rounds"][1]["flipped"]) == (0, contradicted)
    assert {row["decision"] for row in decisions if row["margin"] < 0} == {"flip"}
    assert main(["train", file, "--profile", PROFILE, "--json", *overrides]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [stage["status"] for stage in again["stages"]] == ["skipped", "finished"]


def test_check_finds_faults_of_the_stage(file: str) -> None:
    """A source that the recipe lacks, one without held-out rows, and a later recipe that does not fit the rows."""
    assert stage_findings(load_experiment(file, profile=PROFILE).stages).faults == []
    for override, error in (
        ("stages.clean.sources=[letters]", RecipeError),
        ("stages.clean.recipe.data.sources.numbers.source.val_size=0", DataError),
    ):
        stage = load_experiment(file, profile=PROFILE, overrides=[override]).stages[0]
        assert {fault.cell for fault in stage_findings([stage]).faults} == {"clean"}
        with pytest.raises(error):
            made_stage(stage, {}).preview(Path(file).parent)
    short = load_experiment(file, profile=PROFILE, overrides=["stages.final.recipe.data.encoding.max_tokens=8"]).stages
    assert {fault.cell for fault in stage_findings(short).faults} == {"final"}
