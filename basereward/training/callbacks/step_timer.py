"""Measures the seconds of a step, and the share of time that training waits for data."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import Profiler

STEP_SECONDS = "time/step_s"
DATA_WAIT_SHARE = "time/data_wait_share"
FETCH_ACTION = "train_dataloader_next"
"""Lightning's training loop profiles the wait for its next batch under this name."""


class FetchClock(Profiler):
    """Measures the seconds that the training loop waits for its next batch.

    A profiler, because Lightning calls no callback between two batches.

    >>> clock = FetchClock()
    >>> clock.start(f"[_TrainingEpochLoop].{FETCH_ACTION}")
    >>> clock.stop(f"[_TrainingEpochLoop].{FETCH_ACTION}")
    >>> clock.take() > 0, clock.take()
    (True, 0.0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._began = 0.0

    def start(self, action_name: str) -> None:
        """Start the clock at a wait for a batch; Lightning profiles many other actions."""
        if action_name.endswith(FETCH_ACTION):
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the seconds of the wait, also when the loader had no further batch."""
        if action_name.endswith(FETCH_ACTION):
            self.seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """Return the seconds of waiting since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class StepTimer(Callback):
    """Logs `time/step_s` and `time/data_wait_share` at every optimizer step.

    `time/step_s` runs from the start of the first batch of a step to the end of its last. `time/data_wait_share` is the
    time of waiting for its batches divided by the time of waiting for and working on them. Without loader workers, all
    reading and encoding counts as waiting; with workers, only the time until the next batch is ready. Validations,
    checkpoints and the start of the workers, which come between batches, count for neither metric.

    >>> from pytorch_lightning import Trainer
    >>> step_timer = StepTimer()
    >>> trainer = Trainer(callbacks=[step_timer], profiler=step_timer.clock, logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self.clock = FetchClock()
        self._batch_began = 0.0
        self._step_began = 0.0
        # Seconds of work in the current optimizer step, over all of its micro-batches.
        self._work_s = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of the batch, and at the first batch of a step that of the step."""
        self._batch_began = time.perf_counter()
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._step_began = self._batch_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the times of the step after its last batch, unless the module leaves the step out of the log."""
        now = time.perf_counter()
        self._work_s += now - self._batch_began
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            wait_s = self.clock.take()
            # A module of the user's own may have no such attribute.
            if getattr(pl_module, "logs", True):
                pl_module.log(STEP_SECONDS, now - self._step_began)
                pl_module.log(DATA_WAIT_SHARE, wait_s / max(wait_s + self._work_s, 1e-9))
            self._work_s = 0.0
