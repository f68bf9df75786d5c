"""Runs one training: from a recipe to a trained, tested and recorded model."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any

from basereward.data.loading import loader_faults
from basereward.data.module import PreferenceData
from basereward.errors import BaseRewardError, RunError
from basereward.inference.scorer import load_scorer
from basereward.io.files import disk_faults
from basereward.io.processes import remove_leftovers
from basereward.recipe import recipe_from_yaml, recipe_sha256
from basereward.recipe.schema import Recipe
from basereward.runs.locks import lock_run, unlock_run
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder, find, runs_root
from basereward.runs.tracking.tracker import check_store, deliver_pending
from basereward.training.allocator import keep_freed_memory
from basereward.training.build import PreparedRun, prepare_run
from basereward.training.callbacks.recorder import Recorder, RunDetails
from basereward.training.preflight import check_ready
from basereward.training.probe_cache import ProbeCache

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    *,
    resume: str | None = None,
    parent: str | None = None,
    shared: ProbeCache | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train, validate, test and save one model, and record the run.

    Args:
        recipe: a complete recipe.
        resume: id of a stopped run of the same recipe; it resumes from its last checkpoint, with the same bits as if it
            had never stopped.
        parent: id of the sweep that the run belongs to.
        shared: data and backbone of earlier probes of this process.
        title: display name of a new run; by default the name of the recipe.
        axes: label of each axis of a sweep's cell, by the name of the axis.

    Returns:
        `run_id`; `model`, which `load` opens; `metrics` of the test rows; `pair_s`, seconds to score a test pair;
        `seconds` of training; `skipped`, numbers of rows by source and reason.

    Raises:
        BaseRewardError: the run cannot start or cannot continue; the work so far is kept.
    """
    _tidy_up(recipe)
    run: RunFolder | None = None
    try:
        with disk_faults(), loader_faults():
            run = reopen_run(resume, recipe) if resume is not None else None
            details = RunDetails(title=title, parent=parent, axes=axes or {})
            prepared = prepare_run(recipe, run=run, details=details, probe_cache=shared, keep_open=True)
            if run is None:
                run = prepared.folder
                prepared.recorder.begin_run()
                lock_run(run)
            if prepared.trainer.strategy.root_device.type == "cpu":
                keep_freed_memory()
            return _train(prepared)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns an interrupt into an exit
        if run is not None and run.exists:
            _mark_killed(run)
        raise KeyboardInterrupt from stop
    except Exception as error:
        if run is not None and run.exists:
            _mark_failed(run, error)
        raise
    finally:
        if run is not None:
            unlock_run(run)


def _tidy_up(recipe: Recipe) -> None:
    """Check what needs no data, and clean up after earlier runs.

    Raises:
        BaseRewardError: this machine cannot run the recipe, or the tracking store is not supported.
    """
    check_store(recipe.tracking.uri)
    check_ready(recipe)
    deliver_pending()
    remove_leftovers(runs_root(), ".*.new")
    remove_leftovers(runs_root() / "downloads", ".*")


def _mark_killed(run: RunFolder) -> None:
    # A finished run was interrupted while its last records were uploaded; its journal keeps them.
    if run.state != "finished":
        run.give_up("killed", KeyboardInterrupt())
        logger.info("%s", _how_to_resume(run))


def _mark_failed(run: RunFolder, error: Exception) -> None:
    run.give_up("failed", error)
    if isinstance(error, BaseRewardError):
        error.add_note(_how_to_resume(run))


def _how_to_resume(run: RunFolder) -> str:
    """Say which run ended, and whether it has a checkpoint to resume from."""
    if (run.checkpoints / "last.ckpt").exists():
        advice = f"Its last checkpoint is intact; --resume {run.run_id} continues from it."
    else:
        advice = "It has no checkpoint."
    return f"The run is {run.run_id}, in {run.path}. {advice}"


def _train(prepared: PreparedRun) -> dict[str, Any]:
    try:
        return _fit_and_test(prepared)
    except BaseException as error:  # outside of Lightning's loops nobody else closes the record
        prepared.recorder.abandon(error)
        raise


def _fit_and_test(prepared: PreparedRun) -> dict[str, Any]:
    module, data, trainer, run, recorder = prepared
    last_checkpoint = recorder.checkpoints.last
    resume_from = last_checkpoint if last_checkpoint.exists() else None
    began = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    seconds = time.perf_counter() - began
    if len(data.parts["test"]):
        trainer.test(module, datamodule=data, verbose=False)
    else:
        logger.info("no rows are held out for the test, so there are no test metrics")
    try:
        return _publish(recorder, data, run=run, seconds=seconds)
    except BaseException as error:  # Lightning reports only errors of the two calls above to its callbacks
        if run.state != "finished":
            recorder.on_exception(trainer, module, error)
        raise


def _publish(recorder: Recorder, data: PreferenceData, *, run: RunFolder, seconds: float) -> dict[str, Any]:
    """Merge the adapters if the recipe says so, record the model, and write the result."""
    if recorder.recipe.model.lora is not None and recorder.recipe.model.lora.merge:
        load_scorer(run.model, device="cpu").merged().save(run.model)
    result = {
        "run_id": run.run_id,
        "model": recorder.publish_model(),
        "metrics": recorder.test_metrics,
        "pair_s": recorder.pair_s,
        "seconds": round(seconds, 1),
        "skipped": data.skipped,
    }
    # Before the run is marked as finished: a sweep reads the result of every finished run.
    run.write_result(result)
    recorder.finish()
    return result


def reopen_run(run_id: str, recipe: Recipe) -> RunFolder:
    """Find a stopped run, check it against the recipe, and lock it for this process.

    Raises:
        RunError: there is no such run, it is finished or still running, or it has another recipe. The run stays as it
            is.
    """
    run = find(run_id)
    # The lock decides between processes that resume the same run at the same time.
    if not lock_run(run):
        raise _still_running(run_id)
    try:
        _check_resumable(run, recipe)
    except BaseException:
        unlock_run(run)
        raise
    for folder in (run.path, run.checkpoints, run.scores):  # we hold the lock, so no process writes these files
        remove_leftovers(folder, ".*.tmp", ".*.part", "*.part", ".model-*", older_than_s=0)
    run.mark("running")
    return run


def _still_running(run_id: str) -> RunError:
    return RunError(f"run '{run_id}' is still running; stop it before you resume it")


def _check_resumable(run: RunFolder, recipe: Recipe) -> None:
    run_id = run.run_id
    if run.state == "finished":
        raise RunError(
            f"run '{run_id}' is finished and cannot be resumed. Use its model: basereward score {run_id} FILE"
        )
    if run.state == "running":
        raise _still_running(run_id)
    run_recipe = recipe_from_yaml(run.recipe)
    if recipe_sha256(run_recipe) != recipe_sha256(recipe):
        raise RunError(
            f"run '{run_id}' has another recipe ({run.recipe}), and a run resumes only with its own. "
            + _recipe_difference(run_recipe, recipe)
        )


def _recipe_difference(run_recipe: Recipe, recipe: Recipe) -> str:
    """List the keys whose values differ, without keys that do not count for the hash of a recipe."""
    in_run, now = flatten(dataclasses.asdict(run_recipe)), flatten(dataclasses.asdict(recipe))
    lines = []
    for key in dict.fromkeys([*in_run, *now]):
        counts = key.split(".")[0] not in ("name", "summary", "tracking")
        if counts and in_run.get(key) != now.get(key):
            lines.append(f"  {key}: {in_run.get(key, 'absent')} in the run, {now.get(key, 'absent')} now")
    return "The difference:\n" + "\n".join(lines)
