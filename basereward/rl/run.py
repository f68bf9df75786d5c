"""Runs one training by reinforcement learning: from a recipe to a trained, tested and recorded judge or policy."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from trl import GRPOConfig

from basereward.data.loading import loader_faults
from basereward.errors import RecipeError, TrainingError, format_count
from basereward.io.files import disk_faults, json_text
from basereward.io.interrupts import termination
from basereward.io.lease import LostLeaseError
from basereward.io.processes import changed_environment, this_rank
from basereward.io.progress import phase
from basereward.model.backbone import quiet_transformers
from basereward.model.policy import Policy, policy_adapters
from basereward.recipe import recipe_from_yaml, recipe_yaml
from basereward.recipe.checks.parallel import micro_batch_groups
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import Recipe
from basereward.recipe.trust import is_trusted
from basereward.rl.objectives import TrainingConstants
from basereward.rl.running.checkpoint import read_last, restore_best
from basereward.rl.running.engines import shares_prefixes, vllm_faults, vllm_options
from basereward.rl.running.prepare import PreparedPolicy, policy_objective, prepare_policy
from basereward.rl.running.record import RolloutRecord
from basereward.rl.running.run_trainer import RunTrainer, StepCallback
from basereward.rl.running.saving import save_judge, save_policy
from basereward.rl.trainer import trainer_settings
from basereward.runs.locks import check_run_lock
from basereward.runs.run_folder import RunFolder
from basereward.training.callbacks.checkpoints import is_asked_to_end
from basereward.training.checks.model import training_device
from basereward.training.parallel.collectives import is_first, num_ranks, wait_for_all
from basereward.training.parallel.launch import in_environment, joined
from basereward.training.preflight import Findings, check_recipe
from basereward.training.recording.lifecycle import current_run, tidy_up
from basereward.training.recording.run_record import RunDetails

logger = logging.getLogger(__name__)

WORKER = "basereward.rl.rank_worker"
OLD_NAMES = r"`(is_)?gradient_checkpointing(_\w+)?` is deprecated and will be removed in v6\. Use "
"""What transformers warns of when TRL and peft use its old names."""


def train_policy(
    recipe: Recipe,
    *,
    resume: str | None = None,
    parent: str | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
    quick: Findings | None = None,
) -> dict[str, Any]:
    """Train a judge or a policy by rewards of its rollouts, test and save it, and record the run.

    Args:
        recipe: a complete recipe, whose objective learns from rollouts.
        resume: id of a stopped run of the same recipe; it resumes from its last checkpoint. On the CPU it then writes
            the same rollouts as if it had never stopped.
        parent: id of the sweep that the run belongs to.
        title: display name of a new run; by default the name of the recipe.
        axes: label of each axis of a sweep's cell, by the name of the axis.
        quick: what `check_quickly` has found for the recipe; None: the first rows are read and checked here.

    Returns:
        As `basereward.training.fit.train`. A judge is opened by `load`; the model of another policy is a checkpoint in
        the hub's format.

    Raises:
        RecipeError: the objective does not learn from rollouts.
        BaseRewardError: the run cannot start or cannot continue; the work so far is kept.
    """
    if not learns_from_rollouts(recipe.objective):
        raise RecipeError(
            "the recipe has no objective that learns from rollouts, such as {_target_: grpo}; train it with "
            "basereward.training.fit.train"
        )
    recipe = in_environment(recipe)
    # A sweep has checked all of its cells before the first one.
    if parent is None:
        check_recipe(recipe, quick=quick, resuming=resume is not None)
    if is_first():
        tidy_up()
    names = {"resume": resume, "parent": parent, "title": title, "axes": dict(axes or {})}
    return _train_together(recipe, {"recipe": recipe_yaml(recipe), "trust": is_trusted(), **names})


def train_policy_rank(task: Mapping[str, Any]) -> None:
    """Train in a process that was started for one device of a run.

    Args:
        task: as of `basereward.training.fit.train_rank`.

    Raises:
        BaseRewardError: as `train_policy`.
    """
    _train_together(recipe_from_yaml(task["recipe"]), task)


def _train_together(recipe: Recipe, task: Mapping[str, Any]) -> dict[str, Any]:
    """Train in this process and in the others of the run; {} in all but the first."""
    details = RunDetails(title=task["title"], parent=task["parent"], axes=task["axes"])
    device = training_device(recipe)
    with (
        current_run() as current,
        disk_faults(),
        loader_faults(),
        joined(recipe, task, device=device, worker=WORKER) as link,
        _accelerate(),
    ):
        link.on_stuck = current.fail
        current.reopen(task["resume"], recipe)
        prepared = prepare_policy(recipe)
        if current.folder is not None:
            prepared.identity.check(current.folder)
        record = RolloutRecord(recipe, prepared, run=current.folder or RunFolder.reserve(), details=details)
        if current.folder is None:
            current.begin(record)
        else:
            record.agree_on_run()
        try:
            return _fit_and_test(recipe, prepared, record, device)
        # `abandon` does nothing when the record is closed already.
        except BaseException as error:
            # After `finish` a failed upload must not turn a finished run into a failed one.
            if isinstance(error, LostLeaseError) or record.run.state != "finished":
                record.abandon(error)
            raise


@contextlib.contextmanager
def _accelerate() -> Iterator[None]:
    """The variables and the state by which accelerate finds the processes that have met already."""
    # Its state is that of the process, and an earlier run in it may have had other devices.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    place = this_rank()
    named = {"RANK": place.number, "WORLD_SIZE": place.ranks, "LOCAL_RANK": place.local}
    named["LOCAL_WORLD_SIZE"] = place.local_ranks
    variables = {name: str(value) for name, value in named.items()} if num_ranks() > 1 else {}
    try:
        # accelerate may set them itself.
        with changed_environment(variables, restored=named):
            yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def _fit_and_test(
    recipe: Recipe, prepared: PreparedPolicy, record: RolloutRecord, device: torch.device
) -> dict[str, Any]:
    if is_first():
        record.open(device=device, steps=prepared.steps, tags=record.own_tags())
        if record.run.status["parent"] is None:
            for line in _description(recipe, prepared):
                logger.info("%s", line)
    with quiet_trainer(), vllm_faults(prepared.settings):
        trainer = _build_trainer(recipe, prepared, record)
    began = time.perf_counter()
    with _deferred_termination(), quiet_trainer():
        _fit(trainer, prepared, record)
    seconds = time.perf_counter() - began
    wait_for_all()
    trained = trainer.accelerator.unwrap_model(trainer.model)
    best = restore_best(record.run, trained) or {"step": prepared.steps, "metrics": {}}
    if is_first():
        record.restore_scores()
    metrics = record.test(trainer)
    if not is_first():
        return {}
    with phase("recording the model"), quiet_trainer():
        _save(recipe, prepared, record, trained)
        record.record_best(int(best["step"]))
        return _publish(prepared, record, metrics=metrics, seconds=seconds)


def _description(recipe: Recipe, prepared: PreparedPolicy) -> Iterator[str]:
    """What the run is about to do, in lines for a person."""
    settings, groups = prepared.settings, recipe.batch.groups
    yield f"start: {recipe.model.start or recipe.model.backbone.path or 'a new backbone (model.backbone.make)'}"
    for name in prepared.rows.sources:
        counts = [f"{len(of_source[name]):,} {split}" for split, of_source in prepared.rows.lengths.items()]
        yield f"source {name}: {', '.join(counts)}"
    rollouts = groups * settings.rollouts_per_prompt
    yield (
        f"plan: {format_count(prepared.steps, 'step')} of {rollouts} rollouts, {settings.rollouts_per_prompt} for each "
        f"of {format_count(groups, 'prompt')}; {len(prepared.validations)} validations; at most {settings.max_tokens} "
        "tokens a rollout"
    )


def _build_trainer(recipe: Recipe, prepared: PreparedPolicy, record: RolloutRecord) -> RunTrainer:
    objective = policy_objective(prepared.settings)
    callback = StepCallback(
        validations=prepared.validations if prepared.held_out.has("val") else [],
        saves=prepared.validations,
        every=recipe.trainer.checkpoint_every,
        on_metrics=record.log_step,
        on_step=record.advance,
        stops=is_asked_to_end,
    )
    options: dict[str, Any] = {"callbacks": [callback], "validate": record.validate}
    if recipe.model.lora is not None:
        options["peft_config"] = policy_adapters(prepared.policy, recipe.model.lora)
    trainer = RunTrainer(
        *(recipe, record.run, prepared.policy, prepared.reward, prepared.table, objective),
        run_settings(recipe, prepared, folder=record.run),
        **options,
    )
    callback.trainer = trainer
    # The model is on its device now, where a few tokens of a large one take no time.
    trainer.shares_prefixes = shares_prefixes(prepared.settings, trainer.model)
    return trainer


def run_settings(recipe: Recipe, prepared: PreparedPolicy, *, folder: RunFolder) -> GRPOConfig:
    """TRL's settings for a recipe.

    Args:
        recipe: of the run.
        prepared: its objective and its number of steps.
        folder: of the run.

    Raises:
        RecipeError: two settings do not go together.
    """
    settings, optimizer, trainer = prepared.settings, recipe.optimizer, recipe.trainer
    rollouts = recipe.batch.groups * settings.rollouts_per_prompt
    constants = TrainingConstants(
        learning_rate=optimizer.lr,
        beta=settings.beta,
        epochs=1,
        rollouts=rollouts * settings.updates,
        batch=rollouts,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        adam=(optimizer.betas[0], optimizer.betas[1]),
        weight_decay=optimizer.weight_decay,
        warmup=recipe.schedule.warmup,
        final_share=recipe.schedule.final,
        gradient_norm=trainer.clip,
    )
    device = training_device(recipe)
    return trainer_settings(
        folder.checkpoints,
        policy_objective(settings),
        constants=constants,
        per_device=micro_batch_groups(recipe) * settings.rollouts_per_prompt,
        rollouts_per_prompt=settings.rollouts_per_prompt,
        keep_reference=settings.keep_reference,
        max_steps=prepared.steps,
        seed=recipe.seeds.init,
        # The rows are in their order already.
        shuffle_dataset=False,
        save_strategy="no",
        eval_strategy="no",
        bf16=trainer.precision == "bf16-mixed",
        use_cpu=device.type == "cpu",
        gradient_checkpointing=recipe.model.backbone.gradient_checkpointing,
        dataloader_num_workers=recipe.data.workers,
        disable_tqdm=True,
        **vllm_options(settings, device=device, ranks=num_ranks()),
    )


@contextlib.contextmanager
def quiet_trainer() -> Iterator[None]:
    """Hides bars of transformers and its warnings about names that TRL still uses.

    >>> with quiet_trainer():
    ...     warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6. Use ...", FutureWarning)
    """
    with warnings.catch_warnings(), quiet_transformers():
        warnings.filterwarnings("ignore", message=OLD_NAMES, category=FutureWarning)
        yield


@contextlib.contextmanager
def _deferred_termination() -> Iterator[None]:
    """In the block SIGTERM waits for the end of a step, after which the state is saved."""
    termination.reinstall()
    termination.is_deferred = True
    try:
        yield
    finally:
        termination.is_deferred = False


def _fit(trainer: RunTrainer, prepared: PreparedPolicy, record: RolloutRecord) -> None:
    """Train from the start, or from the last checkpoint."""
    last = read_last(record.run)
    record.begin_progress(prepared.steps, done=0 if last is None else last.step)
    try:
        if last is None:
            if prepared.held_out.has("val"):
                record.validate(trainer)
            trainer.train()
            return
        trainer.take_up(last)
        # All steps may be done, and the model not saved yet.
        if last.step < prepared.steps:
            trainer.train(resume_from_checkpoint=str(record.run.checkpoints / last.folder))
        elif not prepared.held_out.has("val"):
            trainer._load_from_checkpoint(str(record.run.checkpoints / last.folder))
    # What TRL and transformers raise about a value; ours are explained already.
    except (IndexError, ValueError) as error:
        if isinstance(error, RecipeError) or type(error).__module__.startswith("basereward"):
            raise
        raise TrainingError(f"TRL cannot train this recipe: {error}") from error
    finally:
        record.end_progress()


def _save(recipe: Recipe, prepared: PreparedPolicy, record: RolloutRecord, trained: Any) -> None:
    """Save the trained model, with merged adapters."""
    check_run_lock(record.run)
    if recipe.model.lora is not None:
        trained = trained.merge_and_unload()
    policy = Policy(trained, prepared.policy.processor)
    if prepared.reward.trains == "judge":
        save_judge(policy, record.run.model, recipe=recipe, head=prepared.head, encoder=prepared.encoder)
        return
    card = json_text({"objective": recipe.objective, "run": record.run.run_id}, indent=2) + "\n"
    save_policy(policy, record.run.model, card=card)


def _publish(
    prepared: PreparedPolicy, record: RolloutRecord, *, metrics: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """Record the model, and write the result."""
    result = {
        "run_id": record.run.run_id,
        "model": record.publish_model(),
        "metrics": dict(metrics),
        "pair_s": record.pair_s,
        "seconds": round(seconds, 1),
        "skipped": prepared.rows.skipped,
    }
    # Before the run is marked as finished: a sweep reads the result of every finished run.
    record.run.write_result(result)
    record.finish()
    return result
