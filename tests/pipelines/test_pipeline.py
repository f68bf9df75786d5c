"""Test pipelines: every stage once, what is shared, what is refused, and SIGKILL at several moments."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from transformers import AutoConfig

from basereward.cli import main
from basereward.errors import RecipeError, RunError
from basereward.pipelines.check import stage_findings
from basereward.pipelines.run import run_pipeline
from basereward.recipe import load_experiment
from basereward.runs.listing import listed_runs
from basereward.runs.run_folder import list_runs
from basereward.sweeps.resume import resume
from tests.helpers.chat_servers import serving
from tests.helpers.forked_program import fork_context
from tests.helpers.killed_process import Moment, kill_at
from tests.helpers.pipelines import PROFILE, ROOT, Judge, write_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Judge]]:
    """The pipeline of a served judge, in the working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(tmp_path)
    judge = Judge()
    with serving(judge) as server:
        yield str(write_pipeline(tmp_path, server.url)), judge


def run(file: str, *overrides: str) -> dict[str, Any]:
    """Run the pipeline in this process."""
    return run_pipeline(load_experiment(file, profile=PROFILE, overrides=overrides))


def statuses(result: dict[str, Any]) -> dict[str, str]:
    """Whether each stage was run or skipped."""
    return {stage["name"]: stage["status"] for stage in result["stages"]}


def test_every_stage_runs_once(served: tuple[str, Judge], capsys: pytest.CaptureFixture[str]) -> None:
    """The stages hand on what they make; they are runs with the pipeline as parent, in `ls` and in MLflow. A second
    call does nothing again; one with another limit of `select` repeats that stage and those after it alone."""
    file, judge = served
    result = run(file)
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert set(statuses(result).values()) == {"finished"}
    # Of four rows one agrees at once, one at the second attempt, one at once, and one never.
    assert stages["annotate"]["facts"]["by_attempts"] == {"1": 8, "2": 4, "3": 0}
    assert len(judge.asked) == 8 + 4 * 2 + 4 * 3
    assert stages["hard"]["facts"] == {"read": 16, "kept": 8, "repeated": 0}
    orders = stages["evaluate"]["facts"]["results"]["orders"]["pairs-pairs"]
    # A judge of four steps writes no verdict; it is counted apart and no answer is right by it.
    assert orders["unread"] + orders["orders"]["consistent"]["denominator"] >= 16
    assert stages["evaluate"]["facts"]["results"]["votes"]["pairs-pairs"]["over_votes"]["votes_3"]["denominator"] == 16
    listed = {row.cell: row for row in listed_runs(experiment="pipeline")}
    assert listed["5 stages"].kind == "pipeline"
    assert {row.parent for cell, row in listed.items() if cell != "5 stages"} == {result["pipeline_id"]}
    assert set(listed) == {"5 stages", *(f"stage={name}" for name in stages)}
    recorded = mlflow.search_runs(search_all_experiments=True, output_format="list")
    (parent,) = [one for one in recorded if one.data.tags["basereward.kind"] == "pipeline"]
    children = [one for one in recorded if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {one.info.run_name for one in children} == set(stages)
    assert {one.info.status for one in recorded} == {"FINISHED"}
    assert parent.data.metrics["annotate/annotate/agreed"] == 12

    assert main(["train", file, "--profile", PROFILE, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert set(statuses(again).values()) == {"skipped"}
    assert again["pipeline_id"] == result["pipeline_id"]
    assert max(judge.asked.values()) == 1

    changed = run(file, "stages.hard.at_least=3")
    assert statuses(changed) == {
        "annotate": "skipped",
        "cold_start": "skipped",
        "hard": "finished",
        "again": "finished",
        "evaluate": "skipped",
    }
    assert changed["pipeline_id"] != result["pipeline_id"]
    assert max(judge.asked.values()) == 1

    rows = Path(stages["annotate"]["outputs"]["rows"])
    rows.write_text(rows.read_text() + rows.read_text())
    with pytest.raises(RunError, match=r"rows\.jsonl"):
        run(file)
    with pytest.raises(RunError, match=result["pipeline_id"]):
        resume(stages["hard"]["run_id"])


def test_check_finds_faults_of_every_stage(served: tuple[str, Judge], capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything runs: a source that does not exist, a recipe that does not fit the rows of an earlier stage, and
    a missing benchmark. Nothing is asked and no run begins."""
    file, judge = served
    found = stage_findings(load_experiment(file, profile=PROFILE).stages)
    assert (found.faults, set(found.facts)) == ([], {"annotate", "cold_start", "hard", "again", "evaluate"})
    wrong = ["stages.cold_start.recipe.data.encoding.max_tokens=8", "stages.evaluate.data=missing.jsonl"]
    found = stage_findings(load_experiment(file, profile=PROFILE, overrides=wrong).stages)
    assert {fault.cell for fault in found.faults} == {"cold_start", "evaluate"}
    assert main(["check", file, "--profile", PROFILE, "--json", "stages.annotate.source.path=missing.jsonl"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert [fault["cell"] for fault in result["faults"]] == ["annotate"]
    with pytest.raises(RecipeError, match="missing"):
        run(file, "stages.annotate.source.path=missing.jsonl")
    assert main(["sweep", file, "--profile", PROFILE]) == 2
    assert (len(judge.asked), list_runs(kind=None)) == (0, [])


def test_checkpoint_of_a_stage_lasts(served: tuple[str, Judge], monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat checkpoint that a later stage trains from lies in the run of its stage: with an empty cache, every stage
    is found finished and the checkpoint opens."""
    file, _ = served
    backbone = 'stages.again.recipe.model.backbone={make: null, path: "${cold_start.checkpoint}"}'
    reference = [backbone, "stages.evaluate=null"]
    first = run(file, *reference)
    (outputs,) = [stage["outputs"] for stage in first["stages"] if stage["name"] == "cold_start"]
    assert outputs["checkpoint"] == f"{Path(outputs['model']).parent}/chat_checkpoint"
    monkeypatch.setenv("BASEREWARD_CACHE", "another-cache")
    again = run(file, *reference)
    assert set(statuses(again).values()) == {"skipped"}
    assert [stage["run_id"] for stage in again["stages"]] == [stage["run_id"] for stage in first["stages"]]
    assert AutoConfig.from_pretrained(outputs["checkpoint"]).model_type == "qwen2_5_vl"


KILLS = (
    Moment("basereward.evaluation.judging.answers:Answers._keep", call=9),
    Moment("basereward.training.module:RewardModule.training_step", call=2),
    Moment("basereward.evaluation.judging.answers:Answers._keep", call=40),
)


def test_killed_pipeline_goes_on(served: tuple[str, Judge]) -> None:
    """SIGKILL in the annotation, in training and in the evaluation, each followed by the same command: the pipeline
    ends, no answer that was kept is asked for again, and every stage has one finished run.

    `python -m bench.kills --scenarios pipeline` compares models and measures with those of an undisturbed pipeline."""
    file, judge = served
    for moment in KILLS:
        process = fork_context().Process(target=_run_killed, args=(dict(os.environ), os.getcwd(), file, moment))
        process.start()
        process.join()
        assert process.exitcode == -9
    (pipeline,) = list_runs(kind="pipeline")
    result = resume(pipeline.run_id, continue_pipeline=_continued)
    assert (result["kind"], result["pipeline_id"]) == ("pipeline", pipeline.run_id)
    # Two requests are in flight when the process of the first kill ends.
    assert sorted(judge.asked.values())[-3:] in ([1, 1, 1], [1, 1, 2], [1, 2, 2])
    assert len(judge.asked) == 28
    finished = [row for row in listed_runs() if row.state == "finished"]
    assert Counter(row.cell for row in finished if row.kind != "pipeline") == Counter(
        f"stage={stage['name']}" for stage in result["stages"]
    )


def _continued(folder: Any) -> dict[str, Any]:
    from basereward.pipelines.run import resume_pipeline

    return resume_pipeline(folder)


def _run_killed(environment: dict[str, str], folder: str, file: str, moment: Moment) -> None:
    os.environ.update(environment)  # the fork server has the environment of the first test
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    kill_at(moment)
    run(file, "stages.again=null")
