"""Runs the stages of a pipeline, each as a run of its own. A finished stage is not repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from basereward.errors import RecipeError
from basereward.io.files import disk_faults
from basereward.io.processes import remove_leftovers
from basereward.io.progress import announce, phase
from basereward.pipelines.check import check_stages
from basereward.pipelines.definition import Pipeline, resolved_recipe
from basereward.pipelines.stage_runs import StageRow, finished_row, run_stage
from basereward.recipe import Experiment
from basereward.recipe.stages import StageRecipe, resolved
from basereward.runs.locks import lock_earlier, lock_run, unlock_run
from basereward.runs.run_folder import RunFolder, resume_command, runs_root
from basereward.runs.tracking.mlflow_store import NOTE_TAG
from basereward.runs.tracking.tracker import Tracker, check_store, deliver_pending


def run_pipeline(experiment: Experiment) -> dict[str, Any]:
    """Run every stage that is not finished.

    Args:
        experiment: with stages.

    Returns:
        `pipeline_id`, and `stages`: of each `name`, `does`, `run_id`, `status` (`finished`, or `skipped` for one that
        an earlier call has finished), `seconds`, `outputs`, `metrics` and `facts`.

    Raises:
        BaseRewardError: a stage cannot run or has failed; the work so far is kept.
    """
    if not experiment.stages:
        raise RecipeError(f"experiment '{experiment.name}' has no stages; train it with `basereward train`")
    return continue_pipeline(Pipeline.of(experiment))


def resume_pipeline(run: RunFolder) -> dict[str, Any]:
    """Continue a pipeline from its folder alone; see `run_pipeline`.

    Args:
        run: the folder of the pipeline, whose process has ended.

    Raises:
        BaseRewardError: as `run_pipeline`; or its files were edited.
    """
    return continue_pipeline(Pipeline.load(run), asked=run)


def continue_pipeline(pipeline: Pipeline, *, asked: RunFolder | None = None) -> dict[str, Any]:
    """Run the stages of a pipeline that are not finished; see `run_pipeline`. `asked` is the folder to continue in."""
    check_store(pipeline.tracking.uri)
    deliver_pending()
    remove_leftovers(runs_root(), ".*.new")
    with disk_faults():
        with phase("checking the stages"):
            check_stages(_unfinished(pipeline))
        folder = _folder(pipeline, asked)
        try:
            return _run(pipeline, folder)
        finally:
            unlock_run(folder)


def _unfinished(pipeline: Pipeline) -> list[StageRecipe]:
    """The stages from the first one that is not finished: the data of the others may be gone."""
    outputs: dict[str, Mapping[str, str]] = {}
    for place, stage in enumerate(pipeline.stages):
        row = finished_row(stage, outputs, pipeline=pipeline)
        if row is None:
            # Later stages are checked on the outputs of finished stages, and not on stand-ins.
            return [_with_outputs(later, outputs) for later in pipeline.stages[place:]]
        outputs[stage.name] = row.outputs
    return []


def _with_outputs(stage: StageRecipe, outputs: Mapping[str, Mapping[str, str]]) -> StageRecipe:
    recipe = None if stage.recipe is None else resolved_recipe(stage.recipe, outputs)
    needs = tuple(name for name in stage.needs if name not in outputs)
    return StageRecipe(stage.name, resolved(stage.node, outputs), recipe, needs)


def _run(pipeline: Pipeline, folder: RunFolder) -> dict[str, Any]:
    tracker = Tracker(folder)
    try:
        pipeline.save(folder)
        with phase("opening MLflow"):
            tracker.start(
                uri=pipeline.tracking.uri,
                experiment=pipeline.tracking.experiment or pipeline.name,
                name=pipeline.name,
                tags={NOTE_TAG: _describe(pipeline)},
            )
        rows = _run_stages(pipeline, folder, tracker)
    except BaseException as error:
        _abandon(folder, tracker, error)
        error.add_note(
            f"the pipeline is {folder.run_id}; continue it, without its finished stages: {resume_command(folder)}"
        )
        raise
    result = {"pipeline_id": folder.run_id, "stages": [row.as_dict() for row in rows]}
    folder.write_result(result)
    tracker.close("finished")
    folder.mark("finished")
    tracker.finish("finished")
    return result


def _run_stages(pipeline: Pipeline, folder: RunFolder, tracker: Tracker) -> list[StageRow]:
    rows: list[StageRow] = []
    outputs: dict[str, Mapping[str, str]] = {}
    for place, stage in enumerate(pipeline.stages, 1):
        announce(f"stage {place} of {len(pipeline.stages)}: {stage.name} ({stage.node['_target_']})")
        row = run_stage(stage, outputs, pipeline=pipeline, parent=folder.run_id)
        announce(
            f"stage {stage.name} is {'finished' if row.status == 'finished' else 'finished already'}: {row.run_id}"
        )
        tracker.tags({f"stage.{stage.name}": row.run_id})
        measured = {f"{stage.name}/{name}": value for name, value in row.metrics.items() if not math.isnan(value)}
        tracker.metrics(measured, step=place)
        outputs[stage.name] = row.outputs
        rows.append(row)
    return rows


def _abandon(folder: RunFolder, tracker: Tracker, error: BaseException) -> None:
    """Close the record of a pipeline that ends with an error."""
    state: Literal["failed", "killed"] = "failed" if isinstance(error, Exception) else "killed"
    tracker.close(state)
    folder.give_up(state, error)
    tracker.finish(state)


def _describe(pipeline: Pipeline) -> str:
    """What the pipeline is, for its page in MLflow."""
    names = " -> ".join(stage.name for stage in pipeline.stages)
    return f"{pipeline.summary or pipeline.name}\n\n{len(pipeline.stages)} stages, each a child of this run: {names}."


def _folder(pipeline: Pipeline, asked: RunFolder | None) -> RunFolder:
    """The folder of the pipeline. An earlier one of the same stages is reused, so that they keep their parent."""
    text = pipeline.text()
    earlier = lock_earlier(kind="pipeline", name=pipeline.name, text=text, asked=asked)
    if earlier is not None:
        return earlier
    folder = RunFolder.create(text, recipe_sha256="", name=pipeline.name, kind="pipeline", settings=pipeline.settings)
    lock_run(folder)
    return folder
