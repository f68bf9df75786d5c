"""How long a step takes, and the share of time that training waits for data."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import Profiler

STEP, NAME = "time/step_s", "time/data_wait_share"
FETCH = "train_dataloader_next"  # what Lightning's training loop calls the wait for a batch


class FetchClock(Profiler):
    """The seconds that the training loop has spent in waiting for its next batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._began = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(FETCH):
            self._began = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(FETCH):
            self.seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class StepTimer(Callback):
    """Logs of every optimizer step `time/step_s`, from the start of its first batch to the end of its last, and
    `time/data_wait_share`: waiting for its batches, over waiting and working on them.

    Without workers a batch is read and encoded while training waits; with them only what they do not keep up with
    counts. What comes between batches (validation, checkpoints, the start of the workers) is in neither.
    """

    def __init__(self) -> None:
        self.clock = FetchClock()
        self._began = 0.0  # this batch
        self._step_began = 0.0
        self._worked = 0.0  # seconds of this optimizer step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._began = time.perf_counter()
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._step_began = self._began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._worked += now - self._began
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            waited = self.clock.take()
            if getattr(pl_module, "logs", True):
                pl_module.log(STEP, now - self._step_began)
                pl_module.log(NAME, waited / max(waited + self._worked, 1e-9))
            self._worked = 0.0
