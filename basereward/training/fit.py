"""One run from recipe to measured model."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from basereward.data.loading import loader_faults
from basereward.data.module import PreferenceData
from basereward.errors import BaseRewardError, RunError
from basereward.inference.scorer import load_scorer
from basereward.io.files import disk_faults
from basereward.io.leftovers import remove_leftovers
from basereward.recipe import recipe_from_yaml, recipe_sha256
from basereward.recipe.schema import Recipe
from basereward.runs.locks import lock_run, unlock_run
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder, find, runs_root
from basereward.runs.tracking.tracker import check_store, deliver_pending
from basereward.training.build import build
from basereward.training.callbacks.recorder import Recorder
from basereward.training.module import RewardModule
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
    """Trains, validates, tests and saves one model, and records all of it.

    Args:
        recipe: a complete recipe.
        resume: id of a run of the same recipe that was stopped; it goes on from its last checkpoint, to the same bits.
        parent: id of the sweep that the run belongs to.
        shared: what earlier probes of this process stood on.
        title: what a new run is called; by default the recipe's name.
        axes: of a sweep's cell the label of every axis by its name.

    Returns:
        `run_id`, `model` (what `load` opens), `metrics` of the test rows, `pair_s`, the seconds
        that the scores of a test pair took, `seconds` of training, `skipped` rows by
        source and reason.

    Raises:
        BaseRewardError: the run cannot begin or cannot go on; what is done so far is kept.
    """
    check_store(recipe.tracking.uri)
    check_ready(recipe)
    deliver_pending()
    remove_leftovers(runs_root(), ".*.new")
    remove_leftovers(runs_root() / "downloads", ".*")
    run: RunFolder | None = None
    try:
        with disk_faults(), loader_faults():
            run = continued(resume, recipe) if resume is not None else None
            module, data, trainer = build(recipe, run=run, parent=parent, title=title, axes=axes, shared=shared)
            if run is None:
                run = RunFolder(Path(trainer.default_root_dir))
                lock_run(run)
            return _train(module, data, trainer, run=run)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning makes an exit of an interrupt
        if run is not None and run.state != "finished":  # Ctrl-C while the last records were delivered: they are kept
            run.give_up("killed", KeyboardInterrupt())
            logger.info("%s", _whereabouts(run))
        raise KeyboardInterrupt from stop
    except Exception as error:
        if run is not None:
            run.give_up("failed", error)
            if isinstance(error, BaseRewardError):
                error.add_note(_whereabouts(run))
        raise
    finally:
        if run is not None:
            unlock_run(run)


def _whereabouts(run: RunFolder) -> str:
    """Which run ended, and whether there is something to go on from."""
    kept = (run.checkpoints / "last.ckpt").exists()
    way_on = (
        f"Its last checkpoint is whole: --resume {run.run_id} goes on from it." if kept else "It has no checkpoint."
    )
    return f"The run is {run.run_id}, in {run.path}. {way_on}"


def _train(module: RewardModule, data: PreferenceData, trainer: Trainer, *, run: RunFolder) -> dict[str, Any]:
    recorder = next(callback for callback in trainer.callbacks if isinstance(callback, Recorder))  # type: ignore[attr-defined]
    recorder.keep_open = True  # the test follows
    try:
        return _recorded(module, data, trainer, run=run, recorder=recorder)
    except BaseException as error:  # outside of Lightning's loops nobody else closes the record
        recorder.abandon(error)
        raise


def _recorded(
    module: RewardModule, data: PreferenceData, trainer: Trainer, *, run: RunFolder, recorder: Recorder
) -> dict[str, Any]:
    last = recorder.checkpoints.last
    began = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    seconds = time.perf_counter() - began
    if len(data.parts["test"]):
        trainer.test(module, datamodule=data, verbose=False)
    else:
        logger.info("no rows are held out for the test, so there are no test metrics")
    try:
        return _publish(recorder, data, run=run, seconds=seconds)
    except BaseException as error:  # Lightning tells the recorder of those in the two calls above
        if run.state != "finished":
            recorder.on_exception(trainer, module, error)
        raise


def _publish(recorder: Recorder, data: PreferenceData, *, run: RunFolder, seconds: float) -> dict[str, Any]:
    """Merges the adapters where the recipe says so, and records model and result."""
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
    run.write_result(result)
    recorder.finish()
    return result


def continued(run_id: str, recipe: Recipe) -> RunFolder:
    """The folder of a stopped run that goes on, checked against the recipe, and locked for this process.

    Raises:
        RunError: there is no such run, it is finished or still running, or its recipe is another one. The run is left
            as it is.
    """
    run = find(run_id)
    # The lock decides between processes that see the same stopped run at the same time.
    if not lock_run(run):
        raise _still_running(run_id)
    try:
        _check_continued(run, recipe)
    except BaseException:
        unlock_run(run)
        raise
    for folder in (run.path, run.checkpoints, run.scores):  # the lock is ours: nobody writes them any more
        remove_leftovers(folder, ".*.tmp", ".*.part", "*.part", ".model-*", older_than_s=0)
    run.mark("running")
    return run


def _still_running(run_id: str) -> RunError:
    return RunError(f"run '{run_id}' is still running; stop it before it is continued")


def _check_continued(run: RunFolder, recipe: Recipe) -> None:
    run_id = run.run_id
    if run.state == "finished":
        raise RunError(
            f"run '{run_id}' is finished; there is nothing to continue. Its model: basereward score {run_id} FILE"
        )
    if run.state == "running":
        raise _still_running(run_id)
    before = recipe_from_yaml(run.recipe)
    if recipe_sha256(before) != recipe_sha256(recipe):
        raise RunError(
            f"run '{run_id}' has another recipe ({run.recipe}); a run goes on with its own, or its numbers would mean "
            "nothing. " + _difference(before, recipe)
        )


def _difference(before: Recipe, now: Recipe) -> str:
    """Every key whose value is another one; the keys that do not count for the hash are not looked at."""
    ran, given = (flatten(dataclasses.asdict(each)) for each in (before, now))
    lines = [
        f"  {key}: {ran.get(key, 'absent')} in the run, {given.get(key, 'absent')} now"
        for key in dict.fromkeys([*ran, *given])
        if ran.get(key) != given.get(key) and key.split(".")[0] not in ("name", "summary", "tracking")
    ]
    return "The difference:\n" + "\n".join(lines)
