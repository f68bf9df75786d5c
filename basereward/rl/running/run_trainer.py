"""The trainer of a run: `JudgeTrainer` with the optimizer, the checkpoints and the validations of a recipe.

A checkpoint is written where the rollouts of a generation are used up, so that a run which resumes writes the same ones
as a run that never stopped.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig
from trl.data_utils import prepare_multimodal_messages

from basereward.data.lazy_table import LazyTable
from basereward.errors import BaseRewardError, NothingToLearnError
from basereward.io.interrupts import Terminated
from basereward.model.families.parts import part_of
from basereward.model.policy import Policy
from basereward.recipe.schema import Recipe
from basereward.rl.objectives import PolicyObjective
from basereward.rl.running.checkpoint import (
    WEIGHTS,
    LastCheckpoint,
    load_weights,
    save_weights,
    trained_weights,
    write_last,
)
from basereward.rl.trainer import JudgeTrainer
from basereward.runs.locks import check_run_lock
from basereward.runs.run_folder import RunFolder
from basereward.training.optimizer import Parts, adamw, schedule
from basereward.training.parallel.collectives import gather, is_first, num_ranks, rank_number, wait_for_all

logger = logging.getLogger(__name__)

PATIENCE = 3
"""Generations in succession without a usable rollout after which the training stops."""
GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None}
USELESS = {
    "truncated": (
        "every rollout reaches the limit of objective.max_tokens without an end, and all have the same reward. Raise "
        "objective.max_tokens, or start from a model that was trained on examples (model.start)"
    ),
    "empty": (
        "the policy writes nothing: every rollout ends with its first token. Start from a model that was trained on "
        "examples (model.start), or lower the learning rate"
    ),
    "unscored": (
        "no rollout has a finite reward. Check the reward (objective.reward), and the texts that the policy writes"
    ),
}
"""Why no rollout of a generation can be learned from, by the name of the sign."""


class RunTrainer(JudgeTrainer):
    """Trains the policy of a recipe.

    Args:
        recipe: of the run.
        run: its folder, for checkpoints.
        policy: what learns.
        reward: a reward function of TRL.
        rows: the prompts of all steps in their order.
        objective: of the policy.
        settings: from `trainer_settings`, for the same objective.
        validate: called where a validation is due.
        options: further arguments of `JudgeTrainer`.

    Attributes:
        best: the best value of the monitored metric so far; None before there is one.
        saved_at: the step of the last checkpoint; -1 before there is one.
    """

    # Of transformers' and TRL's trainers, whose types are not read.
    control: Any
    generation_config: Any
    generation_kwargs: dict[str, Any]
    eos_token_ids: list[int]
    use_vllm: bool
    lr_scheduler: Any
    optimizer: Any

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        policy: Policy,
        reward: Callable[..., Any],
        rows: LazyTable,
        objective: PolicyObjective,
        settings: GRPOConfig,
        *,
        validate: Callable[[RunTrainer], Mapping[str, float]],
        **options: Any,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.best: float | None = None
        self._validate = validate
        self.saved_at = -1
        self._useless: dict[str, int] = dict.fromkeys(USELESS, 0)
        super().__init__(policy, reward, rows, objective, settings, **options)
        if self.use_vllm:
            # TRL makes neither, and held-out rows are answered by transformers with every engine.
            self.generation_kwargs = self._held_out_generation()
            self.generation_config = GenerationConfig(**self.generation_kwargs)
        # They print to standard output, which belongs to the result.
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)

    def _held_out_generation(self) -> dict[str, Any]:
        """Settings of transformers' generation; the block of `_greedy` adds its own."""
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        limits = {"max_new_tokens": self.args.max_completion_length, "eos_token_id": self.eos_token_ids}
        return {**limits, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}

    # Optimizer

    def trained_parts(self) -> Parts:
        """The trained parameters with their names, by part: vision, merger, language."""
        parts: dict[str, list[tuple[str, torch.nn.Parameter]]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(part_of(name), []).append((name, parameter))
        return parts

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of the recipe."""
        if self.optimizer is None:
            settings = self.recipe.optimizer
            self.optimizer = adamw(
                self.trained_parts(),
                kind=settings.kind,
                lr=settings.lr,
                lr_by_part=settings.lr_by_part,
                weight_decay=settings.weight_decay,
                betas=settings.betas,
                eps=settings.eps,
                bfloat16=settings.bfloat16,
            )
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The learning rates of the recipe."""
        if self.lr_scheduler is None:
            settings = self.recipe.schedule
            self.lr_scheduler = schedule(
                optimizer or self.optimizer,
                shape=settings.shape,
                steps=num_training_steps,
                warmup=settings.warmup,
                final=settings.final,
            )
        scheduler: torch.optim.lr_scheduler.LRScheduler = self.lr_scheduler
        return scheduler

    # Rollouts

    @property
    def is_between_generations(self) -> bool:
        """Whether all rollouts that were written are used up."""
        per_generation = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        return bool(self.state.global_step % per_generation == 0)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The base's. If the reward fails, or nothing can be learned for too long, the work so far is saved first.

        On several processes a reward may fail in one of them. The others then wait for its rewards, and cannot take
        part in a checkpoint: the run ends with its last one.

        Raises:
            BaseRewardError: the reward has failed.
            NothingToLearnError: no rollout of `PATIENCE` generations in succession could be used.
        """
        states = _random_states()
        batch: dict[str, Any] | None = None
        try:
            batch = super()._generate_and_score_completions(inputs)
            self._check_useful(batch)
        except BaseRewardError:
            # The states from before the rollouts, so that a resumed run writes the same rollouts again.
            _set_random_states(states)
            # That nothing can be learned is found on all processes.
            if batch is not None or num_ranks() == 1:
                self.save_now()
            raise
        return batch

    def _check_useful(self, batch: Mapping[str, Any]) -> None:
        """
        Raises:
            NothingToLearnError: no rollout of `PATIENCE` generations in succession could be used.
        """
        if not self.model.training:
            return
        longest = self._sum_over_ranks((batch["completion_mask"].sum(-1) > 1).sum().double()).item()
        signs = {
            # Truncated rollouts with different rewards have advantages, and can be learned from.
            "truncated": self._last_metric("completions/clipped_ratio") == 1.0 and not self._rewards_differ(),
            "empty": longest == 0,
            "unscored": self._last_metric("rewards/unscored") == 1.0,
        }
        for name, is_present in signs.items():
            self._useless[name] = self._useless[name] + 1 if is_present else 0
            if self._useless[name] and is_first():
                logger.warning("step %d: %s", self.state.global_step + 1, USELESS[name])
            if self._useless[name] >= PATIENCE:
                raise NothingToLearnError(f"in {PATIENCE} generations in succession {USELESS[name]}")

    def _rewards_differ(self) -> bool:
        """Whether the finite rewards of the last generation, which are those of all ranks, are not all equal."""
        return len(torch.unique(self._rewards[self._rewards.isfinite()])) > 1

    def _last_metric(self, name: str) -> float | None:
        values = self._metrics["train"].get(name)
        return values[-1] if values else None

    def answers(self, rows: Sequence[Mapping[str, Any]], *, batch: int) -> list[str]:
        """The most likely texts of the policy for some rows. Each process writes its part of them.

        Args:
            rows: with `prompt` and `images`.
            batch: rows that are answered together on a device.

        Returns:
            A text for each row, on every process.
        """
        rank, ranks = rank_number(), num_ranks()
        own = list(rows[rank::ranks])
        texts: list[str] = []
        with self._greedy():
            for start in range(0, len(own), batch):
                texts += self._answer(own[start : start + batch])
        of_ranks = gather(texts)
        return [of_ranks[place % ranks][place // ranks] for place in range(len(rows))]

    def _answer(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
        if not self._is_vlm:
            prompts = [row["prompt"] for row in rows]
        prompt_ids, images, fields = self._tokenize_prompts(prompts)
        ids, _ = self._generate_single_turn(prompt_ids, images, fields, 1)
        texts: list[str] = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        return texts

    @contextmanager
    def _greedy(self) -> Iterator[None]:
        """Generates the most likely tokens in the block, and leaves the random numbers of the rollouts as they are.

        Without dropout, which adapters may have.
        """
        settings, states = (self.generation_config, self.generation_kwargs, self.use_vllm), _random_states()
        was_training = self.model.training
        self.model.eval()
        self.use_vllm = False
        self.generation_kwargs = {**settings[1], **GREEDY}
        self.generation_config = type(settings[0])(**self.generation_kwargs, disable_compile=True)
        try:
            yield
        finally:
            self.model.train(was_training)
            self.generation_config, self.generation_kwargs, self.use_vllm = settings
            _set_random_states(states)

    # Validations and checkpoints

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Answers the held-out rows, where transformers' trainer would compute losses."""
        metrics = dict(self._validate(self))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_now(self) -> None:
        """Write a checkpoint of the present state, unless there is one of this step or no step was made yet."""
        if self.state.global_step not in (0, self.saved_at) and self.is_between_generations:
            self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, and make it the last one.

        Raises:
            LostLeaseError: another process has taken over the run.
            CheckpointError: the disk is full, or the folder cannot be written.
        """
        check_run_lock(self.run)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if is_first():
            # A process that was killed while it wrote the same step may have left files.
            shutil.rmtree(self.run.checkpoints / name, ignore_errors=True)
        wait_for_all()
        super()._save_checkpoint(model, trial)
        wait_for_all()
        if is_first():
            write_last(self.run, LastCheckpoint(name, self.state.global_step, self.best, self.watch.first))
        self.saved_at = self.state.global_step

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the trained weights by the names that they have in the model.

        transformers' trainer writes a checkpoint in the format of the hub, in which the weights of Qwen-VL have other
        names than in the model, and then loads none of them without an error.
        """
        save_weights(trained_weights(self.accelerator.unwrap_model(self.model)), Path(str(output_dir)) / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read what `_save` wrote.

        Raises:
            DamagedCheckpointError: the weights are not those of the policy.
        """
        load_weights(Path(resume_from_checkpoint) / WEIGHTS, self.accelerator.unwrap_model(self.model))

    def take_up(self, last: LastCheckpoint) -> None:
        """Restore what transformers' trainer does not keep in its own checkpoint.

        Args:
            last: the checkpoint that the run resumes from.
        """
        self.best = last.best
        self.watch.first.update(last.first)
        self.saved_at = last.step

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Writes nothing: the saved model has a model card of its own."""


class StepCallback(TrainerCallback):
    """Tells transformers' trainer what is due after a step, and hands its metrics on.

    Args:
        validations: the steps after which held-out rows are answered.
        saves: the steps after which a checkpoint is written.
        every: steps between further checkpoints; None for none.
        on_metrics: gets the metrics of a step and its number.
        on_step: called after every step with its number.
        stops: whether the process is asked to end.
    """

    def __init__(
        self,
        *,
        validations: Sequence[int],
        saves: Sequence[int],
        every: int | None,
        on_metrics: Callable[[Mapping[str, float], int], None],
        on_step: Callable[[int], None],
        stops: Callable[[], bool],
    ) -> None:
        self.validations, self.saves = frozenset(validations), frozenset(saves)
        self.every = every
        self.on_metrics = on_metrics
        self.on_step = on_step
        self.stops = stops
        self.trainer: RunTrainer | None = None
        self.is_stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """Ask for a validation and a checkpoint where they are due."""
        assert self.trainer is not None
        step, trainer = state.global_step, self.trainer
        self.on_step(step)
        self.is_stopping = trainer.is_between_generations and self.stops()
        is_due = self.every is not None and step - max(trainer.saved_at, 0) >= self.every
        control.should_evaluate = step in self.validations
        control.should_save = step in self.saves or self.is_stopping or (is_due and trainer.is_between_generations)

    def on_save(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """End the process that is asked to end, now that its work is saved.

        Raises:
            Terminated: it is.
        """
        if self.is_stopping:
            raise Terminated

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **options: Any) -> None:
        """Hand the metrics of a step on; the summary at the end of the training is left out."""
        if logs and "loss" in logs:
            self.on_metrics(logs, state.global_step)


def _random_states() -> dict[str, Any]:
    """The states of the generators that rollouts are drawn from."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def _set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
