"""Runs one training: from a recipe to a trained, tested and recorded model."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from basereward.data.loading import loader_faults
from basereward.data.module import PreferenceData
from basereward.errors import BaseRewardError, DamagedCheckpointError, RunError, TrainingError
from basereward.inference.scorer import load_scorer
from basereward.io.files import disk_faults
from basereward.io.interrupts import Terminated, termination
from basereward.io.lease import LostLeaseError
from basereward.io.processes import remove_leftovers
from basereward.io.progress import phase
from basereward.recipe import recipe_from_yaml, recipe_sha256, recipe_yaml
from basereward.recipe.schema import Recipe
from basereward.recipe.text import NOT_CONTENT, NOT_CONTENT_OF_TRAINER
from basereward.recipe.trust import is_trusted
from basereward.runs.locks import lock_run, unlock_run
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder, find, resume_command, runs_root
from basereward.runs.tracking.tracker import deliver_pending
from basereward.training.allocator import keep_freed_memory
from basereward.training.build import PreparedRun, prepare_run
from basereward.training.callbacks.recorder import Recorder, RunDetails
from basereward.training.checks.model import training_device
from basereward.training.cost.run_description import describe_run
from basereward.training.parallel.collectives import broadcast, is_first
from basereward.training.parallel.launch import in_environment, joined
from basereward.training.preflight import Findings, check_recipe
from basereward.training.probe_cache import ProbeCache
from basereward.training.run_identity import has_checkpoint

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    *,
    resume: str | None = None,
    parent: str | None = None,
    shared: ProbeCache | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
    quick: Findings | None = None,
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
        quick: what `check_quickly` has found for the recipe; None: the first rows are read and checked here.

    Returns:
        `run_id`; `model`, which `load` opens; `metrics` of the test rows; `pair_s`, seconds to score a test pair;
        `seconds` of training; `skipped`, numbers of rows by source and reason.

    Raises:
        BaseRewardError: the run cannot start or cannot continue; the work so far is kept.
    """
    recipe = in_environment(recipe)
    # A sweep has checked all of its cells before the first one; that this machine can run it, `build` checks each time.
    if parent is None:
        check_recipe(recipe, quick=quick, resuming=resume is not None)
    if is_first():
        _tidy_up()
    names = {"resume": resume, "parent": parent, "title": title, "axes": dict(axes or {})}
    task = {"recipe": recipe_yaml(recipe), "trust": is_trusted(), **names}
    return _train_together(recipe, task, shared=shared)


def train_rank(task: Mapping[str, Any]) -> None:
    """Train in a process that was started for one device of a run.

    Args:
        task: arguments of `train` as JSON values, with the recipe as YAML, and whether foreign code may run.

    Raises:
        BaseRewardError: as `train`.
    """
    _train_together(recipe_from_yaml(task["recipe"]), task, shared=None)


def _train_together(recipe: Recipe, task: Mapping[str, Any], *, shared: ProbeCache | None) -> dict[str, Any]:
    """Train in this process and in the others of the run; {} in all but the first."""
    details = RunDetails(title=task["title"], parent=task["parent"], axes=task["axes"])
    device = training_device(recipe)
    with _current_run() as current, disk_faults(), loader_faults(), joined(recipe, task, device=device) as link:
        link.on_stuck = current.fail
        _reopen(current, task["resume"], recipe)
        prepared = prepare_run(recipe, run=current.folder, details=details, probe_cache=shared, keep_open=True)
        if current.folder is None:
            _begin(current, prepared)
        assert current.folder is not None
        # The cells of a sweep differ little, and the sweep says where it is.
        if is_first() and current.folder.status["parent"] is None:
            for line in describe_run(recipe, prepared):
                logger.info("%s", line)
        # On a GPU the activations are not in glibc's heap, and the setting would only enlarge the process.
        if prepared.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        return _train(prepared)


def _reopen(current: _CurrentRun, run_id: str | None, recipe: Recipe) -> None:
    """Reopen the run to resume, if there is one; the first process does so for all."""
    if run_id is None:
        return
    folder = reopen_run(run_id, recipe) if is_first() else None
    # The others must not look for it: they would see a run that is running.
    current.folder = RunFolder(broadcast(folder.path if folder is not None else Path()))


def _begin(current: _CurrentRun, prepared: PreparedRun) -> None:
    """Begin a new run; the first process does so for all."""
    # Assigned before the folder is created, so that a failure while it is created is recorded in it.
    current.folder = prepared.recorder.agree_on_run()
    if is_first():
        prepared.recorder.begin_run()
        lock_run(current.folder)


@dataclass(slots=True)
class _CurrentRun:
    """The run that `train` works on.

    Attributes:
        folder: None as long as a new run has no folder.
    """

    folder: RunFolder | None = None

    def fail(self, fault: str) -> None:
        """Mark the run as failed, because another process of it has."""
        if self.folder is not None and self.folder.exists and is_first():
            self.folder.give_up("failed", TrainingError(fault))


@contextlib.contextmanager
def _current_run() -> Iterator[_CurrentRun]:
    """Mark the run as killed or failed when the block raises, and release its lock when the block ends."""
    current = _CurrentRun()
    try:
        yield current
    # Lightning's loops turn an interrupt into SystemExit.
    except (KeyboardInterrupt, SystemExit) as stop:
        if not is_first() and not termination.requested:
            raise
        interrupt = Terminated() if termination.requested else KeyboardInterrupt()
        if is_first():
            interrupt.add_note(_mark_killed(current.folder))
        raise interrupt from stop
    except Exception as error:
        if current.folder is not None and is_first():
            _mark_failed(current.folder, error)
        raise
    finally:
        if current.folder is not None:
            unlock_run(current.folder)


def _tidy_up() -> None:
    """Clean up after earlier runs."""
    # Records that an earlier run could not upload, because the tracking server did not answer.
    deliver_pending()
    # Half-made run folders and downloads of killed processes; nothing else would ever remove them.
    remove_leftovers(runs_root(), ".*.new")
    remove_leftovers(runs_root() / "downloads", ".*")


def _mark_killed(run: RunFolder | None) -> str:
    """Mark an interrupted run, and say how to continue it."""
    if run is None or not run.exists:
        return "no run had begun"
    # A run that was interrupted while its last records were uploaded is finished already. Its journal keeps the
    # records, and a later command uploads them.
    if run.state == "finished":
        return f"the run {run.run_id} is finished; the next command uploads the rest of its record"
    run.give_up("killed", KeyboardInterrupt())
    return _how_to_resume(run)


def _mark_failed(run: RunFolder, error: Exception) -> None:
    # After a lost lease the folder belongs to another process.
    if not run.exists or isinstance(error, LostLeaseError):
        return
    run.give_up("failed", error)
    # From a damaged checkpoint the command would fail again.
    if isinstance(error, BaseRewardError) and not isinstance(error, DamagedCheckpointError):
        error.add_note(_how_to_resume(run))


def _how_to_resume(run: RunFolder) -> str:
    """Say which run ended, and the command that continues it."""
    if has_checkpoint(run):
        advice = "continue it from its last checkpoint"
    else:
        advice = "it has no checkpoint yet; begin it again"
    return f"the run is {run.run_id}, in {run.path}; {advice}: {resume_command(run)}"


def _train(prepared: PreparedRun) -> dict[str, Any]:
    try:
        return _fit_and_test(prepared)
    # Lightning reports errors of its loops to the recorder. It does not see errors between the calls of the trainer,
    # which would leave the record open. `abandon` does nothing when the record is closed already.
    except BaseException as error:
        prepared.recorder.abandon(error)
        raise


def _fit_and_test(prepared: PreparedRun) -> dict[str, Any]:
    module, data, trainer, run, recorder = prepared
    last_checkpoint = recorder.checkpoints.last
    resume_from = last_checkpoint if last_checkpoint.exists() else None
    began = time.perf_counter()
    # `weights_only`: a checkpoint holds tensors and plain data, and must not run pickled code.
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    seconds = time.perf_counter() - began
    if len(data.parts["test"]):
        trainer.test(module, datamodule=data, verbose=False)
    elif is_first():
        logger.info("no rows are held out for the test, so there are no test metrics")
    if not is_first():
        return {}
    try:
        with phase("recording the model"):
            if merges(recorder.recipe):
                release_weights(module, trainer)
            return _publish(recorder, data, run=run, seconds=seconds)
    # Lightning reports only errors of the two calls above to its callbacks.
    except BaseException as error:
        # After `finish` a failed upload must not turn a finished run into a failed one.
        if isinstance(error, LostLeaseError) or run.state != "finished":
            recorder.on_exception(trainer, module, error)
        raise


def merges(recipe: Recipe) -> bool:
    """Whether a run saves merged weights instead of its adapters.

    >>> merges(Recipe())
    False
    """
    return recipe.model.lora is not None and recipe.model.lora.merge


def release_weights(module: torch.nn.Module, trainer: Trainer) -> None:
    """Free the weights of a model that is saved, with the states of its optimizers: merging loads it a second time.

    Args:
        module: of the run; it cannot be used any more.
        trainer: of the run.
    """
    for optimizer in trainer.optimizers:
        optimizer.state.clear()
    for parameter in module.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)


def _publish(recorder: Recorder, data: PreferenceData, *, run: RunFolder, seconds: float) -> dict[str, Any]:
    """Merge the adapters if the recipe says so, record the model, and write the result."""
    if merges(recorder.recipe):
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

    Args:
        run_id: of the run.
        recipe: that the run must have been started with.

    Raises:
        RunError: there is no such run, it is finished or still running, it has another recipe, or its recipe was edited
            after the start. The run stays as it is.

    >>> reopen_run("no-such-run", Recipe())
    Traceback (most recent call last):
    basereward.errors.RunError: ...
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
    # This process holds the lock, so no other one writes these files, and their age does not matter.
    for folder in (run.path, run.checkpoints, run.scores):
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
    run_recipe = run.read_recipe()
    if recipe_sha256(run_recipe) != recipe_sha256(recipe):
        raise RunError(
            f"run '{run_id}' has another recipe ({run.recipe}), and a run resumes only with its own. "
            + _recipe_difference(run_recipe, recipe)
        )


def _recipe_difference(run_recipe: Recipe, recipe: Recipe) -> str:
    """List the keys whose values differ, without keys that do not count for the hash of a recipe."""
    # The hash leaves these out, so a run may resume under another name or with another tracking server.
    uncounted = (*NOT_CONTENT, *(f"trainer.{key}" for key in NOT_CONTENT_OF_TRAINER))
    in_run, now = flatten(dataclasses.asdict(run_recipe)), flatten(dataclasses.asdict(recipe))
    lines = []
    for key in dict.fromkeys([*in_run, *now]):
        counts = key not in uncounted and key.split(".")[0] not in uncounted
        if counts and in_run.get(key) != now.get(key):
            lines.append(f"  {key}: {in_run.get(key, 'absent')} in the run, {now.get(key, 'absent')} now")
    return "The difference:\n" + "\n".join(lines)
