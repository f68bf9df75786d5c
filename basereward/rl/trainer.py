"""A judge's reinforcement learning with TRL's GRPOTrainer, changed at its extension points.

Rollouts, log-probabilities and the clipped surrogate are TRL's. Added are the advantages of `PolicyObjective`, its
pre-clip and filter, checks that images reach every forward pass, and metrics. Methods that are overridden are private
in TRL, so its minor version is pinned.

Shapes: N rollouts of this rank, T tokens of the longest one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from basereward.data.lazy_table import LazyTable
from basereward.errors import NotFiniteError, RecipeError, unknown
from basereward.model.generation.shared_prefix import distinct, sharing_prefixes
from basereward.model.policy import Policy
from basereward.rl.advantages import Standardised, kept, standardise, token_returns
from basereward.rl.collapse import CollapseWatch
from basereward.rl.log_ratios import kl_k1, pre_clipped
from basereward.rl.objectives import CONSTANTS, PolicyObjective, TrainingConstants
from basereward.rl.vision_checks import check_image_inputs, checked_axes

logger = logging.getLogger(__name__)

TRL_LOGGER = GRPOTrainer.__module__
UNREWARDED = re.compile(
    # accelerate writes the process before the text.
    r"(\[RANK \d+\] )?All reward functions returned None for the following kwargs:\n\{.*\}\n"
    r"Please ensure that at least one reward function returns a valid reward\.",
    re.DOTALL,
)
"""TRL's warning about rollouts without a reward; in braces is a row."""
# Names of the inputs of a forward pass in TRL's batches.
VISION_INPUTS = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")


def trainer_settings(
    folder: str | Path,
    objective: PolicyObjective,
    *,
    constants: str | TrainingConstants = "paper",
    per_device: int = 8,
    rollouts_per_prompt: int = 2,
    keep_reference: bool = False,
    **options: Any,
) -> GRPOConfig:
    """TRL's settings for an objective and the constants of R1-Reward.

    R1-Reward writes one rollout for each prompt. TRL needs at least two; with the baseline `batch` the two are
    standardised with all others, as single ones would be.

    Args:
        folder: for checkpoints.
        objective: whose `clip` and `beta` are used; the `beta` of the constants is not.
        constants: `paper`, `released`, or others.
        per_device: rollouts of a micro-batch on one device.
        rollouts_per_prompt: at least 2.
        keep_reference: keep the reference model and log the KL divergence from it, also without a penalty.
        options: further settings of `GRPOConfig`, which win over those of the constants.

    Raises:
        RecipeError: a name is unknown, or the numbers of rollouts do not fit.
    """
    if isinstance(constants, str):
        if constants not in CONSTANTS:
            raise RecipeError(unknown("constants", constants, CONSTANTS))
        constants = CONSTANTS[constants]
    sizes = _batch_sizes(constants, per_device, rollouts_per_prompt)
    settings = {"output_dir": str(folder), **_constant_settings(constants), **sizes, **options}
    # TRL makes a reference model if its beta is not 0. The trainer sets the weight of the penalty afterwards.
    beta = objective.beta or float(keep_reference)
    fixed = {
        "loss_type": "grpo",
        "epsilon": objective.clip,
        "beta": beta,
        # TRL would multiply the penalty in the loss by the ratio, which the formula of GRPO does not.
        "use_bias_correction_kl": False,
        "remove_unused_columns": False,
    }
    changed = sorted(name for name in fixed if name in options)
    if changed:
        raise RecipeError(f"{', '.join(changed)}: the objective decides about it; set it there")
    return GRPOConfig(**settings, **fixed)


def _constant_settings(constants: TrainingConstants) -> dict[str, Any]:
    """The settings that follow from the constants, or are the same for every run."""
    has_cuda = torch.cuda.is_available()
    return {
        "learning_rate": constants.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": constants.final_share},
        "warmup_steps": constants.warmup,
        "adam_beta1": constants.adam[0],
        "adam_beta2": constants.adam[1],
        "weight_decay": constants.weight_decay,
        "max_grad_norm": constants.gradient_norm,
        "num_train_epochs": constants.epochs,
        "max_completion_length": constants.max_tokens,
        "temperature": constants.temperature,
        "top_p": constants.top_p,
        "bf16": has_cuda,
        "use_cpu": not has_cuda,
        "logging_steps": 1,
        "report_to": [],
    }


def _batch_sizes(constants: TrainingConstants, per_device: int, rollouts_per_prompt: int) -> dict[str, int]:
    """The sizes of micro-batch, step and generation.

    Raises:
        RecipeError: they do not fit.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if rollouts_per_prompt < 2:
        raise RecipeError(
            f"rollouts_per_prompt={rollouts_per_prompt}: TRL needs at least 2. Take 2 with baseline=batch, which "
            "standardises them with all others"
        )
    forward = per_device * ranks
    if constants.batch % forward or constants.rollouts % constants.batch or constants.batch % rollouts_per_prompt:
        raise RecipeError(
            f"{constants.rollouts} rollouts in steps of {constants.batch}, with {per_device} on each of {ranks} "
            f"devices and {rollouts_per_prompt} for each prompt, do not fit. A step must be a multiple of per_device "
            "times the devices and of rollouts_per_prompt, and the rollouts a multiple of a step"
        )
    return {
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": constants.batch // forward,
        "steps_per_generation": constants.rollouts // forward,
        "num_generations": rollouts_per_prompt,
    }


class JudgeTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains a policy by `stable_reinforce`, `reinforce_pp` or `grpo`.

    Args:
        policy: what learns.
        reward: a reward function of TRL, such as `JudgeReward`. If it logs the extra column `right`, the shares of
            dropped advantages are logged apart for right and wrong answers.
        rows: with the column `prompt`, `images` if rows have them, and what the reward reads; see `JudgeRows.table`.
        objective: of the policy.
        settings: from `trainer_settings`, for the same objective.
        shares_prefixes: write the rollouts of a prompt after one pass over it and its images; see
            `basereward.rl.running.engines`.
        options: further arguments of `GRPOTrainer`, such as `callbacks` and `peft_config`.

    Raises:
        RecipeError: the settings are of another objective.

    Example:
        objective = stable_reinforce()
        settings = trainer_settings("runs/judge", objective, constants="paper")
        JudgeTrainer(load_policy(PATH), JudgeReward(), JudgeRows(groups).table(), objective, settings).train()
    """

    def __init__(
        self,
        policy: Policy,
        reward: Callable[..., Any],
        rows: LazyTable,
        objective: PolicyObjective,
        settings: GRPOConfig,
        *,
        shares_prefixes: bool = False,
        **options: Any,
    ) -> None:
        has_reference = settings.beta != 0
        fits = settings.loss_type == "grpo" and settings.epsilon == objective.clip
        if not fits or (objective.beta and settings.beta != objective.beta):
            raise RecipeError(
                f"the settings have loss_type={settings.loss_type}, epsilon={settings.epsilon} and beta="
                f"{settings.beta}, which are not those of the objective {objective.name}. Make them with "
                "trainer_settings"
            )
        self.objective = objective
        self.watch = CollapseWatch()
        self.shares_prefixes = shares_prefixes
        # For each row of a generation, the number of its prompt among the distinct ones.
        self._prompt_places: list[int] = []
        self._image_token_id: int | None = getattr(policy.model.config, "image_token_id", None)
        self._loss_inputs: Mapping[str, Any] | None = None
        self._rewards = torch.zeros(0)
        self._right: Tensor | None = None
        super().__init__(
            model=policy.model,
            reward_funcs=reward,
            args=settings,
            train_dataset=rows,
            processing_class=policy.processor,
            **options,
        )
        self._has_reference = has_reference
        # A penalty in the reward is in the advantages, and TRL must not add its own to the loss.
        self.beta = objective.beta if objective.kl == "loss" else 0.0

    # Forward passes

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's, with images checked, and with the pre-clip in the forward pass of a loss."""
        parts: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        size = batch_size or len(input_ids)
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            chunk = _rows_of(inputs, start, size, total=len(input_ids))
            with self._checked_images(model, input_ids[rows], chunk):
                parts.append(
                    super()._get_per_token_logps_and_entropies(
                        model, input_ids[rows], attention_mask[rows], logits_to_keep, **chunk
                    )
                )
        log_probs = torch.cat([part[0] for part in parts])
        entropies = _joined([part[1] for part in parts])
        auxiliary = _joined([None if part[2] is None else part[2].reshape(1) for part in parts])
        if self._loss_inputs is not None:
            log_probs = self._with_pre_clip(log_probs, self._loss_inputs)
        return log_probs, entropies, None if auxiliary is None else auxiliary.mean()

    @contextmanager
    def _checked_images(self, model: Any, input_ids: Tensor, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Checks in the block that the pixels and positions of all images reach a forward pass.

        Raises:
            TrainingError: they do not.
        """
        if self._image_token_id is None:
            yield
            return
        check_image_inputs(
            input_ids,
            image_token_id=self._image_token_id,
            merge_size=self.processing_class.image_processor.merge_size,
            pixel_values=inputs.get("pixel_values"),
            image_grid_thw=inputs.get("image_grid_thw"),
            mm_token_type_ids=inputs.get("mm_token_type_ids"),
        )
        with ExitStack() as stack:
            places = input_ids == self._image_token_id
            if places.any():
                stack.enter_context(checked_axes(self.accelerator.unwrap_model(model), places))
            yield

    def _with_pre_clip(self, log_probs: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Log-probabilities whose difference from the old ones is limited, which TRL then takes the exponential of."""
        old, bounds = inputs.get("old_per_token_logps"), self.objective.ratio_bounds
        # Without old log-probabilities the ratio is 1.
        if old is None or bounds is None:
            return log_probs
        log_ratio = log_probs - old
        clipped = pre_clipped(log_ratio, bounds)
        mask = inputs["completion_mask"].bool()
        counts = torch.stack([((clipped != log_ratio) & mask).sum(), mask.sum()]).double()
        self._log_share("clip_ratio/pre_clip", counts)
        # Where nothing is limited the sum could differ from `log_probs` in its last digit.
        return torch.where(clipped == log_ratio, log_probs, old + clipped)

    # Rollouts

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        """TRL's tokens and images of all prompts; with shared prefixes, the last part is that of distinct prompts."""
        if not self.shares_prefixes:
            tokenized: tuple[list[list[int]], Any, dict[str, Any]] = super()._tokenize_prompts(prompts)
            return tokenized
        of_distinct, places = distinct(prompts)
        ids, images, fields = super()._tokenize_prompts(of_distinct)
        self._prompt_places = places
        return [ids[place] for place in places], images and [images[place] for place in places], fields

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *arguments: Any
    ) -> tuple[list[list[int]], Any]:
        """TRL's, for prompts of `_tokenize_prompts`; with shared prefixes each distinct prompt is read once."""
        generate, places = super()._generate_single_turn, self._prompt_places
        if not self.shares_prefixes or places == list(range(len(prompt_ids))):
            written: tuple[list[list[int]], Any] = generate(prompt_ids, images, multimodal_fields, *arguments)
            return written
        firsts = [places.index(number) for number in range(places[-1] + 1)]
        with sharing_prefixes(self.accelerator.unwrap_model(self.model), places):
            written = generate([prompt_ids[first] for first in firsts], images, multimodal_fields, *arguments)
        return written

    def _calculate_rewards(self, *arguments: Any, **options: Any) -> Tensor:
        """TRL's `(rollouts of all ranks, functions)`; a reward that is not finite becomes NaN, which no mean counts."""
        with _without_rows():
            rewards: Tensor = super()._calculate_rewards(*arguments, **options)
        rewards = torch.where(rewards.isfinite(), rewards, torch.nan)
        scored = ~rewards.isnan().all(1)
        weighted = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        self._rewards = torch.where(scored, weighted, torch.nan)
        right = self._pending_extra_logs.get("right")
        self._right = None if right is None else torch.tensor(list(right), dtype=torch.bool, device=rewards.device)
        self._log("rewards/unscored", (~scored).double().mean().item())
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch of rollouts, with the advantages of the objective."""
        with self._reading_reference():
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        reference, mask = batch.get("ref_per_token_logps"), batch["completion_mask"]
        kl: Tensor | None = None
        if reference is not None:
            kl = kl_k1(self._old_log_probs(batch), reference)
            self._log_share("kl/reference", torch.stack([(kl * mask).sum(), mask.sum()]).double())
        if self.objective.baseline == "batch":
            batch["advantages"] = self._token_advantages(mask, kl)
        return batch

    @contextmanager
    def _reading_reference(self) -> Iterator[None]:
        """Lets TRL compute the reference's log-probabilities in the block, which it does if its beta is not 0."""
        beta = self.beta
        self.beta = 1.0 if self._has_reference else 0.0
        try:
            yield
        finally:
            self.beta = beta

    def _old_log_probs(self, batch: dict[str, Any]) -> Tensor:
        """The log-probabilities `(N, T)` under the policy that wrote the rollouts.

        TRL leaves them out where every rollout is used before the policy changes; they are then computed here.
        """
        if batch.get("old_per_token_logps") is None:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
            attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
            vision = {name: batch[name] for name in VISION_INPUTS if name in batch}
            length = batch["completion_ids"].size(1)
            with torch.no_grad():
                batch["old_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids, attention, length, self.args.per_device_train_batch_size, **vision
                )
        old: Tensor = batch["old_per_token_logps"]
        return old

    def _token_advantages(self, mask: Tensor, kl: Tensor | None) -> Tensor:
        """The filtered advantages `(N, T)` of the rollouts of this rank."""
        start = self.accelerator.process_index * len(mask)
        rewards = self._rewards[start : start + len(mask)].to(mask.device)
        own = mask * (~rewards.isnan())[:, None]
        returns = token_returns(rewards, own, kl=kl, beta=self.objective.beta)
        advantages = standardise(returns, own, sum_over_ranks=self._sum_over_ranks)
        keep = kept(advantages, self.objective.filter)
        self._log("advantages/mean_return", advantages.mean)
        self._log("advantages/std_return", advantages.std)
        self._log_dropped(advantages, keep, own)
        return torch.where(keep, advantages.values, 0.0)

    # Loss

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """TRL's loss of a micro-batch.

        Raises:
            NotFiniteError: it is NaN or infinite.
        """
        self._loss_inputs = inputs
        try:
            loss: Tensor = super()._compute_loss(model, inputs)
        finally:
            self._loss_inputs = None
        if not loss.isfinite():
            raise NotFiniteError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}. Lower the learning rate, or take "
                "stable_reinforce, whose pre-clip limits the ratio; the last checkpoint is kept"
            )
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of a checkpoint that `save_model` wrote.

        transformers' trainer would load no weight of a Qwen-VL model, and raise no error, because the format of the
        hub has other names than the model. The names of adapters are the same in both.
        """
        policy = self.accelerator.unwrap_model(self.model)
        if hasattr(policy, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())

    def _send_telemetry(self) -> None:
        """Sends nothing. TRL would report every training to its developers."""

    # Metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log, and a warning for every sign of a collapse."""
        super().log(logs, start_time)
        if self.accelerator.is_main_process:
            for message in self.watch.observe(logs):
                logger.warning("step %d: %s", self.state.global_step, message)

    def _log_dropped(self, advantages: Standardised, keep: Tensor, mask: Tensor) -> None:
        """Logs which share of rollouts the filter drops, each by its share of tokens: of all, of right, of wrong."""
        lengths = mask.sum(-1)
        dropped = ((~keep & mask.bool()).sum(-1) / lengths.clamp(min=1)).double()
        has_tokens = (lengths > 0).double()
        groups = {"filter/dropped": has_tokens}
        if self._right is not None:
            right = self._right.to(mask.device)
            groups |= {"filter/dropped_right": has_tokens * right, "filter/dropped_wrong": has_tokens * ~right}
        for name, weights in groups.items():
            self._log_share(name, torch.stack([(dropped * weights).sum(), weights.sum()]))

    def _log_share(self, name: str, counts: Tensor) -> None:
        """Logs the first of two numbers divided by the second, both summed over ranks; nothing if the second is 0."""
        part, whole = self._sum_over_ranks(counts).tolist()
        if whole:
            self._log(name, part / whole)

    def _log(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(values.detach().clone(), reduction="sum")
        return total


@contextmanager
def _without_rows() -> Iterator[None]:
    """Hides TRL's warning about rollouts without a reward, which has a whole row of the data with its images.

    `rewards/unscored` has their share. Any other warning is shown, also one that begins in the same way.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return UNREWARDED.fullmatch(record.getMessage()) is None

    trl = logging.getLogger(TRL_LOGGER)
    trl.addFilter(is_other)
    try:
        yield
    finally:
        trl.removeFilter(is_other)


def _rows_of(inputs: Mapping[str, Any], start: int, size: int, *, total: int) -> dict[str, Any]:
    """The inputs of some rows of a batch; without pixels if these rows have no image, which a vision tower refuses."""
    counts = inputs.get("num_images")
    chunk = {name: value for name, value in inputs.items() if value is not None}
    if "mm_token_type_ids" in chunk:
        chunk["mm_token_type_ids"] = chunk["mm_token_type_ids"][start : start + size]
    if counts is None or chunk.get("pixel_values") is None:
        return chunk
    own = list(counts[start : start + size])
    first = sum(counts[:start])
    grids = chunk["image_grid_thw"]
    patches = grids.prod(-1)
    before, inside = int(patches[:first].sum()), int(patches[first : first + sum(own)].sum())
    if not sum(own):
        for name in ("pixel_values", "image_grid_thw", "num_images"):
            del chunk[name]
        return chunk
    chunk["pixel_values"] = chunk["pixel_values"][before : before + inside]
    chunk["image_grid_thw"] = grids[first : first + sum(own)]
    return {**chunk, "num_images": own}


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """The parts in one tensor; None if there are none.

    >>> _joined([torch.zeros(1), torch.ones(1)]), _joined([None])
    (tensor([0., 1.]), None)
    """
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
