"""The Lightning module: trains a reward model, and validates and tests it source by source.

Shapes: B responses of a batch, P preferences among them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from basereward.data.batching.tree_batch import PADDING, TreeBatch
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Split
from basereward.data.streaming.streamed_module import StreamedData
from basereward.errors import CheckpointError, NotFiniteError
from basereward.metrics.collection import PreferenceMetrics, mean_accuracy
from basereward.model.families.parts import part_of
from basereward.model.families.vision import VISION_PARTS
from basereward.model.reward_model import RewardModel
from basereward.model.saving.saved_model import copy_exactly
from basereward.model.sharded import divided_like, own_part, to_parts, whole
from basereward.runs.score_files import ScoredGroup, in_file_order, scored_groups
from basereward.training.objectives.contracts import Objective
from basereward.training.optimizer import adamw, schedule
from basereward.training.parallel.collectives import gather, gather_tensor, num_ranks, rank_number
from basereward.training.parallel.sharded_strategy import ShardedStrategy


class RewardModule(LightningModule):
    """Trains a reward model on preferences.

    Args:
        model: maps batches to scores.
        objective: what a training step does with a batch.
        sources: names of the sources; each has validation and test metrics of its own.
        optimizer: arguments of `adamw`.
        schedule: arguments of `schedule` without the number of steps.
        steps: optimizer steps of the schedule; None takes Lightning's estimate, which knows the trainer's limits and
            the length of a plain data loader.
        clip: largest norm of the gradient; 0 disables clipping.
        dropout_seed: seed of the dropout masks.
        log_every: log one of so many optimizer steps. The trainer records no more than that in any case, and the
            logging of the others takes a third of the time of a probe.
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        objective: Objective,
        sources: Sequence[str],
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        steps: int | None = None,
        clip: float = 0.0,
        dropout_seed: int = 0,
        log_every: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optimizer_settings = dict(optimizer)
        self.schedule_settings = dict(schedule)
        self.steps = steps
        self.clip = clip
        self.dropout_seed = dropout_seed
        self.log_every = log_every
        # Whether the current step is logged. Callbacks that log at a step read it too.
        self.logs = True
        # A ModuleDict, so that the states of the metrics move to the device with the module.
        self.metrics = torch.nn.ModuleDict({_module_key(name): PreferenceMetrics() for name in sources})
        self.names = {_module_key(name): name for name in sources}
        # Groups of the current or last validation or test. The recorder and the checkpoint write them to files.
        self.scored: list[ScoredGroup] = []
        # Cost of the scores of a validation or test: nanoseconds (`ns`) and tokens read (`tokens`).
        self._cost = Counter[str]()
        # Verdicts, unread ones and tokens that a generative head writes in a validation or test.
        self._generated = Counter[str]()
        # Passes of the current validation or test that are not repeated.
        self._own_passes = 0
        # Ids of the groups of the current step, for error messages.
        self._step_ids: list[str] = []
        # Whether any rank has an image in the current step.
        self._step_has_images = True
        # The loss of the current step by micro-batch, and its parts if the step is logged.
        self._step_losses: list[Tensor] = []
        self._step_parts: list[dict[str, Tensor]] = []

    def forward(self, batch: TreeBatch) -> Tensor:
        """Score all responses of a batch.

        Args:
            batch: as the data module gives it.

        Returns:
            `(B,)`, float32.
        """
        return self.model.response_scores(batch)

    # Training.

    def on_train_batch_start(self, batch: TreeBatch, batch_idx: int) -> None:
        """Seed the dropout masks of the micro-batch, and decide at the first one of a step whether it is logged."""
        micro_batches = self.trainer.accumulate_grad_batches
        position = batch_idx % micro_batches
        # Dropout depends on (seed, micro-batch) and on no earlier state, so a resumed run draws the same masks, and so
        # do several ranks, among which the micro-batches of a step are divided.
        index = (self.global_step * micro_batches + position) * num_ranks() + rank_number()
        torch.manual_seed((self.dropout_seed << 40) + index)
        if position == 0:
            self._step_ids = []
            self._step_has_images = batch.step is None or batch.step.images
            self.logs = (self.global_step + 1) % self.log_every == 0
            self._step_parts = []
            self._step_losses = []
        self._step_ids += batch.ids

    def training_step(self, batch: TreeBatch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch.

        Lightning takes the mean over the micro-batches of a step. The weights of the objective make this mean the
        loss of the step, however its groups are divided into micro-batches. Whether it is finite is checked once for
        the whole step, with the norm of the gradient: reading it here would wait for the GPU at every micro-batch.
        """
        loss: Tensor
        loss, parts = self.objective(self.model, batch)
        self._step_losses.append(loss.detach())
        # Detached: the graph of an earlier micro-batch would otherwise stay in memory until the step is logged.
        if self.logs:
            self._step_parts.append({"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}})
            if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
                self._log_step()
        return loss

    def _log_step(self) -> None:
        """Log the loss of the whole step, and its parts when there are several."""
        micro_batches = self.trainer.accumulate_grad_batches
        names: list[str] = []
        for parts in self._step_parts:
            names += [name for name in parts if name not in names]
        # A single part equals the loss, and a second curve of the same numbers would only be in the way.
        for name in names if len(names) > 2 else ("loss",):
            values = [parts[name] for parts in self._step_parts if name in parts]
            mean = torch.stack(values).sum() / micro_batches
            self.log(f"train/{name}", mean, prog_bar=name == "loss", batch_size=1, sync_dist=num_ranks() > 1)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient of all parameters by its norm, and log the norm and the learning rate.

        It overrides Lightning's hook, because Lightning neither returns the norm nor rejects one that is not finite.

        Raises:
            NotFiniteError: the loss or the norm is NaN or infinite, on any rank.
        """
        if not self._step_has_images:
            self._drop_vision_gradients()
        parameters: list[Tensor] = []
        for group in optimizer.param_groups:
            parameters += group["params"]
        # An infinite limit computes the norm and clips nothing.
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.clip or float("inf")))
        self._check_finite(norm)
        if self.logs:
            self.log("train/grad_norm", norm)
            # Logged here, because the scheduler sets the rate of the next step right after this one.
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def _drop_vision_gradients(self) -> None:
        """Leave the vision tower as it is in a step without images, as in a run of one process.

        The gradients are zeros that only keep the ranks in step; the optimizer would still decay the weights.
        """
        if num_ranks() == 1:
            return
        for name, parameter in self.model.named_parameters():
            if part_of(name) in VISION_PARTS:
                parameter.grad = None

    def _check_finite(self, norm: Tensor) -> None:
        """Check the losses of the step on all ranks and the norm of its gradient, in one copy from the device.

        Raises:
            NotFiniteError: one of them is NaN or infinite. All ranks raise it.
        """
        own = torch.stack([*self._step_losses, norm.to(self._step_losses[0])])
        for rank, (*losses, norm_value) in enumerate(gather_tensor(own).tolist()):
            for loss in losses:
                if not math.isfinite(loss):
                    raise NotFiniteError(self._not_finite(f"the loss is {loss}", step=self.global_step + 1, rank=rank))
            if not math.isfinite(norm_value):
                fault = f"the norm of the gradient is {norm_value}"
                raise NotFiniteError(self._not_finite(fault, step=self.global_step + 1))

    def _not_finite(self, fault: str, *, step: int, rank: int | None = None) -> str:
        """The message, with the rows of the rank that has the fault, or of all of them."""
        ids: list[str] = []
        for number, own in enumerate(gather(self._step_ids)):
            ids += own if rank in (None, number) else []
        return (
            f"{fault} at step {step}. The rows of the step: {', '.join(ids)}. No checkpoint was "
            "written after it. Train again with a lower optimizer.lr or a longer schedule.warmup, or check those rows."
        )

    def configure_model(self) -> None:
        """Divide the model among the ranks, if the strategy does."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            strategy.divide(self, transformer=self.model.backbone.transformer, head=self.model.head)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build AdamW over the trained parts of the model and of a loss that learns; the rate changes at every step."""
        parts = self.model.parts()
        own = [(name, parameter) for name, parameter in self.objective.named_parameters() if parameter.requires_grad]
        # Only a loss that learns has parameters. An empty part would make `lr_by_part: {loss: ...}` valid for all.
        if own:
            parts["loss"] = own
        optimizer = adamw(parts, **self.optimizer_settings)
        steps = self.steps if self.steps is not None else int(self.trainer.estimated_stepping_batches)
        rates = schedule(optimizer, steps=steps, **self.schedule_settings)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        """Count the rows of a stream that other ranks have rejected."""
        data = getattr(self.trainer, "datamodule", None)
        if num_ranks() > 1 and isinstance(data, StreamedData):
            data.share_rejections(gather)

    # Validation and test.

    def on_validation_epoch_start(self) -> None:
        """Discard the scores and counts of the last validation."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Discard the scores and counts of the last validation."""
        self._start_evaluation()

    def _start_evaluation(self) -> None:
        self.scored = []
        self._cost.clear()
        self._generated.clear()

    def validation_step(self, batch: TreeBatch, batch_idx: int) -> None:
        """Score a batch, and add its margins to the metrics of its sources."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: TreeBatch, batch_idx: int) -> None:
        """Score a batch in the same way as a validation does."""
        self._evaluate(batch, batch_idx, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of every source, their mean, and the cost of a pair, under `val/`."""
        self._share_evaluation()
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the same metrics as a validation, under `test/`."""
        self._share_evaluation()
        self._log_metrics("test")

    def _share_evaluation(self) -> None:
        """Give every rank the scores and the costs of all ranks, the groups in the order of their files."""
        if num_ranks() == 1:
            return
        # One exchange of the hosts for a whole validation.
        parts = gather((self.scored, self._cost, self._generated))
        self.scored = in_file_order([scored for scored, _, _ in parts])
        self._cost, self._generated = Counter[str](), Counter[str]()
        for _, cost, generated in parts:
            self._cost.update(cost)
            self._generated.update(generated)

    def _evaluate(self, batch: TreeBatch, batch_idx: int, split: Split) -> None:
        if self._is_repeated(batch_idx, split):
            # This rank has no groups left, and the others wait for its part of the layers.
            self.model.response_scores(batch)
            return
        began = time.perf_counter_ns()
        scores = self.model.response_scores(batch, tally=self._generated)
        # Inside the measured time: it copies the scores to the host and so waits for the GPU.
        self.scored += scored_groups(batch, scores)
        self._cost["ns"] += time.perf_counter_ns() - began
        self._cost["tokens"] += int((batch.rows.group != PADDING).sum())
        pairs = batch.preferences
        margins = scores[pairs.winner] - scores[pairs.loser]
        winner_lengths, loser_lengths = batch.lengths[pairs.winner], batch.lengths[pairs.loser]
        # A batch may mix sources, and each source has metrics of its own.
        source_of_pair = [batch.sources[group] for group in pairs.group.tolist()]
        for name in dict.fromkeys(source_of_pair):
            of_source = torch.tensor([source == name for source in source_of_pair], device=margins.device)
            self._metrics_of(_module_key(name)).update(
                margins[of_source],
                ties=pairs.tie[of_source],
                winner_lengths=winner_lengths[of_source],
                loser_lengths=loser_lengths[of_source],
            )

    def _is_repeated(self, batch_idx: int, split: Split) -> bool:
        """Whether a pass only makes the number of passes equal on all ranks; see `held_out_passes`."""
        data = getattr(self.trainer, "datamodule", None)
        if num_ranks() == 1 or not isinstance(data, PreferenceData):
            return False
        if batch_idx == 0:
            self._own_passes = data.held_out_passes(split)[1]
        return batch_idx >= self._own_passes

    def _metrics_of(self, key: str) -> PreferenceMetrics:
        metrics = self.metrics[key]
        assert isinstance(metrics, PreferenceMetrics)
        return metrics

    def _log_metrics(self, split: str) -> None:
        values_by_source = []
        for key, source in self.names.items():
            metrics = self._metrics_of(key)
            values = metrics.compute()
            # Lightning would reset the metrics only if they were logged as objects.
            metrics.reset()
            self.log_dict({f"{split}/{source}/{name}": value for name, value in values.items()})
            values_by_source.append(values)
        self.log(f"{split}/pair_accuracy", mean_accuracy(values_by_source), prog_bar=True)
        self._log_cost(split)

    def _log_cost(self, split: str) -> None:
        """Log the tokens, read and written, and the seconds of a scored pair.

        A probe reads no tokens, and its seconds would be those of its head alone, so it logs neither.
        """
        pairs = sum(len(group.preferences) for group in self.scored)
        generated = self._generated
        if pairs and self._cost["tokens"]:
            self.log(f"{split}/tokens_per_pair", (self._cost["tokens"] + generated["tokens"]) / pairs)
            self.log(f"time/{split}_pair_s", self._cost["ns"] / 1e9 / pairs)
        if generated["verdicts"]:
            self.log(f"{split}/unread_verdicts", generated["unread"] / generated["verdicts"])

    # Checkpoints hold the trained weights alone. Frozen ones are loaded with the backbone, whose hash is checked.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace the weights in a checkpoint by the trained ones."""
        checkpoint["state_dict"] = self.trained_state()

    def trained_state(self) -> dict[str, Tensor]:
        """The trained weights, by name; all ranks must call this.

        Raises:
            NotFiniteError: a weight is NaN or infinite; it must not overwrite an earlier checkpoint.
        """
        state = {name: parameter.detach() for name, parameter in self.trained_weights().items()}
        if not state:
            return state
        finite = torch.stack([torch.isfinite(own_part(weight)).all() for weight in state.values()])
        for name, is_finite in zip(state, gather_tensor(finite).all(0).tolist(), strict=True):
            if not is_finite:
                raise NotFiniteError(self._not_finite(f"the weight {name} is no longer finite", step=self.global_step))
        return state

    def trained_weights(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by the names that they have in checkpoints: those of the model without a prefix."""
        # A validation may leave whole copies in their place, which the optimizer does not change.
        to_parts(self)
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for name, parameter in self.objective.named_parameters(prefix="objective"):
            if parameter.requires_grad:
                trained[name] = parameter
        return trained

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights, in place of torch's method, which would ask for the frozen weights too.

        Args:
            state_dict: trained weights by name, all of them and no others.
            strict: has no effect; a mismatch is always an error.
            assign: has no effect; values are copied into the parameters that the optimizer holds.

        Raises:
            CheckpointError: a weight is missing, unexpected, or of another shape; the message names all of them.
        """
        own = self.trained_weights()
        given = {name: divided_like(own[name], value) if name in own else value for name, value in state_dict.items()}
        faults = copy_exactly(own, given)
        if faults:
            raise CheckpointError("the checkpoint does not fit the recipe's model:\n  " + "\n  ".join(faults))


def _module_key(source: str) -> str:
    """The key of a source in torch's ModuleDict, which allows no dot and no name of its own attributes."""
    return "source " + source.replace(".", "\u2024")
