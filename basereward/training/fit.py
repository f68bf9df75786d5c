"""Runs one training: from a recipe to a trained, tested and recorded model."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Trainer

from basereward.data.loading import loader_faults
from basereward.data.module import PreferenceData
from basereward.inference.scorer import load_scorer
from basereward.io.files import disk_faults
from basereward.io.lease import LostLeaseError
from basereward.io.progress import phase
from basereward.recipe import recipe_from_yaml, recipe_yaml
from basereward.recipe.schema import Recipe
from basereward.recipe.trust import is_trusted
from basereward.runs.run_folder import RunFolder
from basereward.training.allocator import keep_freed_memory
from basereward.training.build import PreparedRun, prepare_run
from basereward.training.callbacks.recorder import Recorder
from basereward.training.checks.model import training_device
from basereward.training.cost.run_description import describe_run
from basereward.training.parallel.collectives import is_first
from basereward.training.parallel.launch import in_environment, joined
from basereward.training.preflight import Findings, check_recipe
from basereward.training.probe_cache import ProbeCache
from basereward.training.recording.lifecycle import current_run, tidy_up
from basereward.training.recording.run_record import RunDetails

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
        tidy_up()
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
    with current_run() as current, disk_faults(), loader_faults(), joined(recipe, task, device=device) as link:
        link.on_stuck = current.fail
        current.reopen(task["resume"], recipe)
        prepared = prepare_run(recipe, run=current.folder, details=details, probe_cache=shared, keep_open=True)
        if current.folder is None:
            current.begin(prepared.recorder)
        assert current.folder is not None
        # The cells of a sweep differ little, and the sweep says where it is.
        if is_first() and current.folder.status["parent"] is None:
            for line in describe_run(recipe, prepared):
                logger.info("%s", line)
        # On a GPU the activations are not in glibc's heap, and the setting would only enlarge the process.
        if prepared.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        return _train(prepared)


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
