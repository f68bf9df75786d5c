"""Progress of a run: one bar over training, validations and test, and a line with the metrics of each validation."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.data.module import PreferenceData
from basereward.data.schema.group import Split
from basereward.errors import format_count
from basereward.io.progress import Phase, begin, write_line

logger = logging.getLogger(__name__)

TRAINING_WORK = 3
"""Work of a micro-batch in training, in units of one that is only scored: a backward pass is two forward passes."""


@dataclass(frozen=True, slots=True)
class RunWork:
    """What a run has to do on this process.

    Attributes:
        steps: optimizer steps.
        micro_batches: of a step.
        stages: number of stages, each of which ends with a validation.
        val_batches: of a validation.
        test_batches: of the test that follows; 0 without one.

    >>> RunWork(steps=10, micro_batches=2, stages=2, val_batches=5, test_batches=4).total
    74
    """

    steps: int
    micro_batches: int
    stages: int
    val_batches: int
    test_batches: int

    @classmethod
    def of(cls, data: PreferenceData, *, tested: bool) -> RunWork:
        """Count the work of a run.

        Args:
            data: after `setup`.
            tested: whether a test follows the training.
        """
        plan = data.plan
        assert plan is not None
        test_batches = _num_batches(data, "test") if tested else 0
        return cls(plan.steps, plan.forwards_per_step, plan.stages, _num_batches(data, "val"), test_batches)

    @property
    def total(self) -> int:
        """All of it, in units of a scored batch."""
        return self.done(self.steps, stages=self.stages) + self.test_batches

    def done(self, steps: int, *, stages: int) -> int:
        """The work of some steps and stages."""
        return TRAINING_WORK * self.micro_batches * steps + self.val_batches * stages


def _num_batches(data: PreferenceData, split: Split) -> int:
    plan = data.plan
    assert plan is not None
    # The data have no trainer yet, which would know the rank; the first rank has the most groups.
    return len(data.batches(split, data.parts[split].places[:: plan.ranks]))


class RunProgress(Callback):
    """Shows the progress of a run; see `basereward.io.progress`. Steps are counted from 1.

    Args:
        work: of the run.
        monitor: name of the metric that is shown beside the step.
    """

    def __init__(self, work: RunWork, *, monitor: str) -> None:
        self._work = work
        self._monitor = monitor
        self._phase: Phase | None = None
        self._began = 0.0
        # The monitored metric, for the bar. Read once after each validation: on a GPU, reading it waits for the device.
        self._monitored = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the bar, where an earlier process of the run has stopped; say how the model is chosen."""
        self._began = time.perf_counter()
        if not trainer.is_global_zero:
            return
        if not trainer.enable_validation:
            logger.info("no rows are held out for validation, so the model is that of the last step")
        done = self._work.done(trainer.global_step, stages=trainer.current_epoch)
        plan = f"{self._work.steps} steps in {format_count(self._work.stages, 'stage')}"
        self._phase = begin("training", total=self._work.total, initial=done, detail=plan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a micro-batch."""
        is_complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._advance(TRAINING_WORK, step=trainer.global_step + (not is_complete))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Count a batch of the validation."""
        self._advance(1, step=trainer.global_step, within=", validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the loss and the accuracies, with the step and the seconds since the start."""
        if not trainer.is_global_zero:
            return
        # `callback_metrics` holds dozens of metrics of every source; the run's record has all of them.
        shown = []
        for name, value in sorted(trainer.callback_metrics.items()):
            if name.endswith("pair_accuracy") or name == "train/loss":
                shown.append(f"{name} {float(value):.4f}")
        if self._monitor in trainer.callback_metrics:
            # Without its split and source: a line of a terminal is short.
            name = self._monitor.rpartition("/")[2]
            self._monitored = f", {name} {float(trainer.callback_metrics[self._monitor]):.4f}"
        seconds = time.perf_counter() - self._began
        line = f"step {trainer.global_step} of {self._work.steps}, {seconds:.0f} s: {', '.join(shown)}"
        logger.info("%s", line)
        # In a notebook nobody has set up logging, and the cell that trains shows the metrics too.
        if not logger.isEnabledFor(logging.INFO):
            write_line(line)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the bar, unless a test follows."""
        if not self._work.test_batches:
            self._end()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar for a test without a training."""
        if self._phase is None and trainer.is_global_zero:
            self._phase = begin("testing", total=int(sum(trainer.num_test_batches)) or None)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Count a batch of the test."""
        if self._phase is not None:
            self._phase.advance(detail="test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the bar."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the bar of a run that stops."""
        self._end()

    def _advance(self, work: int, *, step: int, within: str = "") -> None:
        # Validations can also be run alone, by `trainer.validate`.
        if self._phase is None:
            return
        detail = f"step {step} of {self._work.steps}{within}{self._monitored}"
        self._phase.advance(work, detail=detail)

    def _end(self) -> None:
        if self._phase is not None:
            self._phase.end()
            self._phase = None
