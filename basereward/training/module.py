"""The Lightning module: a reward model in training, validated and tested source by source."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from basereward.data.batching.loss_units import Unit, batch_counts, count_units
from basereward.data.batching.plan import Steps
from basereward.data.batching.tree_batch import PADDING, TreeBatch
from basereward.errors import CheckpointError, NotFiniteError
from basereward.metrics.collection import PreferenceMetrics, mean_accuracy
from basereward.model.reward_model import Outputs, RewardModel
from basereward.model.saving.saved_model import copy_exactly
from basereward.runs.score_files import ScoredGroup, scored_groups
from basereward.training.allocator import keep_freed_memory
from basereward.training.optimizer import adamw, schedule

Loss = Callable[[Tensor, TreeBatch], tuple[Tensor, dict[str, Tensor]]]
"""Scores `(K,)` and their batch to the loss of a forward pass and its named parts. The loss is a mean over units of the
pass; the attribute `unit` says which (see `basereward.data.batching.loss_units`), and is `group` where there is none.
"""


class RewardModule(LightningModule):
    """Trains a reward model on preferences.

    Args:
        model: batches to scores.
        loss: scores and their batch to the loss and its named parts.
        sources: names of the sources that are validated and tested, each by itself.
        optimizer: arguments of `adamw`.
        schedule: arguments of `schedule`, but for the number of steps, which the data's plan has.
        clip: largest norm of the gradient; 0 is no clipping.
        dropout_seed: seed of the dropout masks.
        log_every: optimizer steps of which one is logged. The trainer keeps as few, whatever is logged; what it leaves
            out costs a third of the time of a probe.
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        loss: Loss,
        sources: Sequence[str],
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        clip: float = 0.0,
        dropout_seed: int = 0,
        log_every: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer_settings = dict(optimizer)
        self.schedule_settings = dict(schedule)
        self.clip = clip
        self.dropout_seed = dropout_seed
        self.log_every = log_every
        self.logs = True  # whether the step under way is logged
        self.metrics = torch.nn.ModuleDict({_key(name): PreferenceMetrics() for name in sources})
        self.names = {_key(name): name for name in sources}
        self.scored: list[ScoredGroup] = []
        self._spent = Counter[str]()
        self._tally = Counter[str]()  # of what a head that speaks writes in a validation or test
        self._batch_ids: list[str] = []
        self._step_units = 0  # of the ranking loss, in the step under way
        self._step_parts: list[dict[str, Tensor]] = []  # of the passes of the step under way, to be added up

    def forward(self, batch: TreeBatch) -> Tensor:
        """Scores of all responses of the batch, shape `(K,)`, float32."""
        return self.model.response_scores(batch)

    # Training.

    def on_fit_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_train_batch_start(self, batch: TreeBatch, batch_idx: int) -> None:
        # Dropout is a function of (seed, step, rank) and of nothing before it, so a resumed run draws the same masks.
        step = (
            self.global_step * self.trainer.accumulate_grad_batches + batch_idx % self.trainer.accumulate_grad_batches
        )
        torch.manual_seed((self.dropout_seed << 40) + (self.global_rank << 32) + step)
        self._batch_ids = (
            batch.ids if batch_idx % self.trainer.accumulate_grad_batches == 0 else self._batch_ids + batch.ids
        )
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.logs = (self.global_step + 1) % self.log_every == 0
            self._step_parts = []
            if self._unit != "group":  # of which the plan knows the number
                counts = self.trainer.datamodule.step_counts(self.global_step, batch)  # type: ignore[attr-defined]
                self._step_units = count_units(self._unit, counts)

    def training_step(self, batch: TreeBatch, batch_idx: int) -> Tensor:
        """The loss of a forward pass. The mean over the passes of a step, which Lightning takes, is that of the step,
        however its groups are shared out."""
        outputs = self.model.outputs(batch)
        loss, parts = self._loss(outputs, batch)
        if not torch.isfinite(loss):
            raise NotFiniteError(self._not_finite(f"the loss is {float(loss.detach())}", step=self.global_step + 1))
        if self.logs:
            self._step_parts.append({"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}})
            if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
                self._log_step()
        return loss

    def _log_step(self) -> None:
        """Logs the loss of the whole step, and its parts where there are several."""
        passes, ranks = self.trainer.accumulate_grad_batches, self.trainer.world_size
        names = dict.fromkeys(name for parts in self._step_parts for name in parts)
        for name in names if len(names) > 2 else ("loss",):
            value = torch.stack([parts[name] for parts in self._step_parts if name in parts]).sum() / passes
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=1, sync_dist=ranks > 1)

    def _loss(self, outputs: Outputs, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a pass and its named parts, each times what the pass counts among the passes of its step. That of
        ranking is the mean over the texts that scores were read after."""
        found = [self.loss(scores, batch) for scores in outputs.scores]
        ranking = self._ranking_share(batch)
        parts = {
            name: torch.stack([each[name] for _, each in found]).mean() * ranking
            for name in (found[0][1] if found else ())
        }
        losses = [torch.stack([loss for loss, _ in found]).mean() * ranking] if found else []
        if outputs.language is not None:
            head: Any = self.model.head
            parts["language"] = outputs.language * self._plan.share(batch.num_groups)
            losses.append(head.language_weight * parts["language"])
        return torch.stack(losses).sum(), parts

    @property
    def _plan(self) -> Steps:
        plan: Steps = self.trainer.datamodule.plan  # type: ignore[attr-defined]
        return plan

    @property
    def _unit(self) -> Unit:
        unit: Unit = getattr(self.loss, "unit", "group")
        return unit

    def _ranking_share(self, batch: TreeBatch) -> float:
        """What the ranking loss of a pass counts among the passes of its step; 1 on average."""
        if self._unit == "group":
            return self._plan.share(batch.num_groups)
        units = count_units(self._unit, batch_counts(batch))
        return units * self._plan.forwards_per_step * self._plan.ranks / max(self._step_units, 1)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))
        if not torch.isfinite(norm):
            raise NotFiniteError(
                self._not_finite(f"the norm of the gradient is {float(norm)}", step=self.global_step + 1)
            )
        if self.logs:
            self.log("train/grad_norm", norm)
            self.log("train/lr", optimizer.param_groups[0]["lr"])  # here it is that of this step, later of the next

    def _not_finite(self, what: str, *, step: int) -> str:
        return (
            f"{what} at step {step}. The rows of the step: {', '.join(self._batch_ids)}. No checkpoint was "
            "written since. Train anew with a lower optimizer.lr or a longer schedule.warmup, or look at those rows."
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = adamw(self.model.parts(), **self.optimizer_settings)
        rates = schedule(optimizer, steps=self._plan.steps, **self.schedule_settings)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    # Validation and test.

    def on_validation_epoch_start(self) -> None:
        self._start()

    def on_test_epoch_start(self) -> None:
        self._start()

    def _start(self) -> None:
        self.scored = []
        self._spent.clear()
        self._tally.clear()

    def validation_step(self, batch: TreeBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: TreeBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _evaluate(self, batch: TreeBatch) -> None:
        began = time.perf_counter_ns()
        scores = self.model.response_scores(batch, tally=self._tally)
        self.scored += scored_groups(batch, scores)  # waits for a GPU
        self._spent["ns"] += time.perf_counter_ns() - began
        self._spent["tokens"] += int((batch.group != PADDING).sum())
        margins = scores[batch.winner] - scores[batch.loser]
        won, lost = batch.lengths[batch.winner], batch.lengths[batch.loser]
        source_of = [batch.sources[g] for g in batch.preference_group.tolist()]
        for name in dict.fromkeys(source_of):
            mine = torch.tensor([source == name for source in source_of], device=margins.device)
            self._metrics_of(_key(name)).update(
                margins[mine], ties=batch.tie[mine], winner_lengths=won[mine], loser_lengths=lost[mine]
            )

    def _metrics_of(self, key: str) -> PreferenceMetrics:
        metrics = self.metrics[key]
        assert isinstance(metrics, PreferenceMetrics)
        return metrics

    def _report(self, split: str) -> None:
        found = []
        for key, source in self.names.items():
            metrics = self._metrics_of(key)
            found.append(metrics.compute())
            metrics.reset()
            self.log_dict({f"{split}/{source}/{name}": value for name, value in found[-1].items()})
        self.log(f"{split}/pair_accuracy", mean_accuracy(found), prog_bar=True)
        self._report_cost(split)

    def _report_cost(self, split: str) -> None:
        """What the scores cost, by preference: tokens read and written, and seconds. A probe reads none, and its
        seconds would be those of its head alone."""
        pairs = sum(len(group.preferences) for group in self.scored)
        tally = self._tally
        if pairs and self._spent["tokens"]:
            self.log(f"{split}/tokens_per_pair", (self._spent["tokens"] + tally["tokens"]) / pairs)
            self.log(f"time/{split}_pair_s", self._spent["ns"] / 1e9 / pairs)
        if tally["verdicts"]:
            self.log(f"{split}/unread_verdicts", tally["unread"] / tally["verdicts"])

    # Checkpoints hold what is trained; what is frozen comes from the backbone again.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.trained_state()

    def trained_state(self) -> dict[str, Tensor]:
        """The trained weights, by name.

        Raises:
            NotFiniteError: a weight is NaN or infinite, which must not take the place of an earlier checkpoint.
        """
        state = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        for name, weight in state.items():
            if not torch.isfinite(weight).all():
                raise NotFiniteError(self._not_finite(f"the weight {name} is no longer finite", step=self.global_step))
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads trained weights.

        Raises:
            CheckpointError: a weight is missing, too many, or of another shape; all of them are named.
        """
        own = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        faults = copy_exactly(own, state_dict)
        if faults:
            raise CheckpointError("the checkpoint does not fit the recipe's model:\n  " + "\n  ".join(faults))


def _key(source: str) -> str:
    """A source's name as a key of torch's ModuleDict, which allows no dot."""
    return "source " + source.replace(".", "\u2024")
