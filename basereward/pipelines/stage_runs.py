"""Runs one stage of a pipeline as a run of its own, or finds the run that has finished it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from basereward.errors import RunError
from basereward.io.hashing import file_sha256
from basereward.io.progress import labelled
from basereward.model.saving.chat_checkpoint import chat_checkpoint
from basereward.pipelines.definition import Pipeline, is_used, made_stage, resolved_recipe, shown_path, stage_key
from basereward.pipelines.stages.contracts import Stage, StageResult
from basereward.recipe import recipe_sha256, recipe_yaml
from basereward.recipe.schema import Node, Recipe
from basereward.recipe.stages import Outputs, StageRecipe, resolved
from basereward.runs.locks import cell_lock, lock_run, unlock_run
from basereward.runs.run_folder import RunFolder, finished_with, unfinished_with
from basereward.runs.tracking.tracker import Tracker
from basereward.sweeps.cell_worker import train_task

OUTPUTS = "outputs"
"""The folder of a stage's files in its run."""


CHECKPOINT = "chat_checkpoint"
"""The folder of the chat checkpoint in the run of a stage that trains a judge."""


@dataclass(frozen=True)
class StageRow:
    """A stage that is finished.

    Attributes:
        name: of the stage.
        does: its target.
        run_id: of its run.
        status: `skipped` if an earlier call has finished it.
        seconds: of its work.
        outputs: for later stages.
        metrics: of its run.
        facts: what else it found.

    >>> StageRow("hard", "select", "20260314-153012-9f2c41", "finished", 0.1, {}, {}, {}).status
    'finished'
    """

    name: str
    does: str
    run_id: str
    status: Literal["finished", "skipped"]
    seconds: float
    outputs: Mapping[str, str]
    metrics: Mapping[str, float]
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


def run_stage(stage: StageRecipe, outputs: Outputs, *, pipeline: Pipeline, parent: str) -> StageRow:
    """Run a stage, or continue it where it stopped; return what a finished one has made.

    When another process runs the same stage, its end is waited for.

    Args:
        stage: of the pipeline.
        outputs: of the stages before.
        pipeline: whose stage it is.
        parent: id of the pipeline's run.

    Raises:
        BaseRewardError: the stage failed; its work so far is kept.
    """
    if stage.is_training:
        return _train(stage, _recipe_of(stage, outputs), pipeline=pipeline, parent=parent)
    node = resolved(stage.node, outputs)
    made = made_stage(stage, outputs, tracking=pipeline.tracking)
    key = _key(node, made)
    with cell_lock(key, wait=True):
        finished = finished_with(key, kind="stage")
        if finished is not None:
            return _finished_stage(stage, finished)
        run = _begin(stage, node, key, pipeline=pipeline, parent=parent)
        try:
            return _work(stage, made, run, pipeline=pipeline, parent=parent)
        finally:
            unlock_run(run)


def finished_row(stage: StageRecipe, outputs: Outputs, *, pipeline: Pipeline) -> StageRow | None:
    """What a stage has made, if it is finished; None otherwise.

    Args:
        stage: of the pipeline.
        outputs: of the stages before, all of which are finished.
        pipeline: whose stage it is.

    Raises:
        RunError: a file that it has written was changed.
    """
    if stage.is_training:
        recipe = _recipe_of(stage, outputs)
        run = finished_with(recipe_sha256(recipe))
        result = None if run is None else run.result()
        return None if run is None or result is None else _trained(stage, run, result, pipeline)
    node = resolved(stage.node, outputs)
    run = finished_with(_key(node, made_stage(stage, outputs, tracking=pipeline.tracking)), kind="stage")
    return None if run is None else _finished_stage(stage, run)


def _recipe_of(stage: StageRecipe, outputs: Outputs) -> Recipe:
    assert stage.recipe is not None
    return resolved_recipe(stage.recipe, outputs)


def _key(node: Node, made: Stage) -> str:
    """The identity of a stage."""
    return stage_key({**node, "definitions": made.definitions()}, uncounted=made.uncounted, inputs=made.inputs())


def _train(stage: StageRecipe, recipe: Recipe, *, pipeline: Pipeline, parent: str) -> StageRow:
    """Train as a cell of a sweep is trained: once, however many processes ask for it."""
    recipe = dataclasses.replace(recipe, tracking=pipeline.tracking)
    was_finished = finished_with(recipe_sha256(recipe)) is not None
    task = {
        "recipe": recipe_yaml(recipe),
        "title": stage.name,
        "axes": {"stage": stage.name},
        "label": stage.name,
    }
    result = train_task(json.dumps(task), parent=parent)
    run = finished_with(recipe_sha256(recipe))
    assert run is not None
    row = _trained(stage, run, result, pipeline)
    return row if was_finished else dataclasses.replace(row, status="finished")


def _trained(stage: StageRecipe, run: RunFolder, result: Mapping[str, Any], pipeline: Pipeline) -> StageRow:
    outputs = {"run": run.run_id, "model": shown_path(run.model)}
    # Written only if it is used: this further copy of the weights takes minutes and gigabytes for a large model.
    if is_used(pipeline.stages, stage.name, "checkpoint"):
        # In the run and not in the cache, which may be emptied: recipes of later stages name this path.
        outputs["checkpoint"] = shown_path(chat_checkpoint(run.model, target=run.path / CHECKPOINT))
    facts = {"model": result["model"], "skipped": result["skipped"]}
    metrics = {name: float(value) for name, value in result["metrics"].items()}
    return StageRow(stage.name, "train", run.run_id, "skipped", run.seconds or 0.0, outputs, metrics, facts)


def _finished_stage(stage: StageRecipe, run: RunFolder) -> StageRow:
    """A stage that an earlier call has finished.

    Raises:
        RunError: a file that it has written was changed or is gone.
    """
    result = run.result()
    if result is None:
        raise RunError(f"the result of stage '{stage.name}' in {run.path} is gone; remove that folder to run it again")
    for file, sha256 in result["files"].items():
        path = run.path / file
        if not path.is_file() or file_sha256(path) != sha256:
            raise RunError(
                f"'{path}' was changed after stage '{stage.name}' had written it, and later stages depend on it. Put "
                f"it back as it was, or remove the folder {run.path} to run the stage again"
            )
    return _row(stage, run, result, status="skipped")


def _row(
    stage: StageRecipe, run: RunFolder, result: Mapping[str, Any], *, status: Literal["finished", "skipped"]
) -> StageRow:
    # A path is stored relative to the folder of the run, which may be moved.
    outputs: dict[str, str] = {}
    for name, value in result["outputs"].items():
        is_file = value in result["files"] or any(file.startswith(f"{value}/") for file in result["files"])
        outputs[name] = shown_path(run.path / value) if is_file else value
    does = str(stage.node["_target_"])
    seconds = float(result["seconds"])
    return StageRow(stage.name, does, run.run_id, status, seconds, outputs, result["metrics"], result["facts"])


def _begin(stage: StageRecipe, node: Node, key: str, *, pipeline: Pipeline, parent: str) -> RunFolder:
    """The locked folder of a stage: that of a stopped run of it, or a new one."""
    run = unfinished_with(key, kind="stage")
    if run is not None and lock_run(run):
        run.mark("running")
        return run
    run = RunFolder.create(
        json.dumps(node, indent=2) + "\n",
        recipe_sha256=key,
        name=stage.name,
        parent=parent,
        kind="stage",
        axes={"stage": stage.name},
        experiment=pipeline.name,
    )
    lock_run(run)
    return run


def _work(stage: StageRecipe, made: Stage, run: RunFolder, *, pipeline: Pipeline, parent: str) -> StageRow:
    tracker = Tracker(run)
    try:
        tracker.start(
            uri=pipeline.tracking.uri,
            experiment=pipeline.tracking.experiment or pipeline.name,
            name=stage.name,
            parent=parent,
        )
        result = _result(stage, made, run)
        tracker.params({"stage": stage.node})
        tracker.metrics(result["metrics"], step=0)
        tracker.artifact(run.path / "result.json")
        tracker.close("finished")
        run.mark("finished")
    except BaseException as error:
        state: Literal["failed", "killed"] = "failed" if isinstance(error, Exception) else "killed"
        tracker.close(state)
        run.give_up(state, error)
        tracker.finish(state)
        raise
    tracker.finish("finished")
    return _row(stage, run, result, status="finished")


def _result(stage: StageRecipe, made: Stage, run: RunFolder) -> dict[str, Any]:
    """Do the work of a stage and write its result; or read it, if the run was stopped just after that."""
    result = run.result()
    if result is not None:
        return result
    folder = run.path / OUTPUTS
    folder.mkdir(exist_ok=True)
    began = time.perf_counter()
    with labelled(stage.name):
        done = made.run(folder)
    result = _as_result(done, run, seconds=time.perf_counter() - began)
    run.write_result(result)
    return result


def _as_result(done: StageResult, run: RunFolder, *, seconds: float) -> dict[str, Any]:
    """What a stage has made as JSON, with the hash of every file among its outputs."""
    outputs: dict[str, str] = {}
    files: dict[str, str] = {}
    for name, value in done.outputs.items():
        path = Path(value)
        if path.is_absolute() and path.is_relative_to(run.path):
            value = path.relative_to(run.path).as_posix()
            # Of a folder, the files in it, and not those below it, which may be a million images.
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if file.is_file():
                    files[file.relative_to(run.path).as_posix()] = file_sha256(file)
        outputs[name] = value
    measured = {"metrics": dict(done.metrics), "facts": dict(done.facts), "seconds": round(seconds, 1)}
    return {"run_id": run.run_id, "outputs": outputs, "files": files, **measured}
