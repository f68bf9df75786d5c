"""Progress of a training: a bar on a terminal, elsewhere one log line per validation."""

from __future__ import annotations

import logging
import time

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

logger = logging.getLogger(__name__)


class StageBar(TQDMProgressBar):
    """Lightning's bar. It counts stages, because an epoch of Lightning is a stage of our plan."""

    def on_train_epoch_start(self, trainer: Trainer, *args: object) -> None:
        """Write the number of the stage before the bar, in place of an epoch."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"stage {trainer.current_epoch + 1} of {trainer.max_epochs}")


class Progress(Callback):
    """Logs one line per validation."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the number of stages, and whether the model is chosen by a validation."""
        self._began = time.perf_counter()
        logger.info("training: %d stages", trainer.max_epochs)
        if not trainer.enable_validation:
            logger.info("no rows are held out for validation, so the model is that of the last step")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the loss and the accuracies, with the step and the seconds since the start."""
        # `callback_metrics` holds dozens of metrics of every source; the run's record has all of them.
        shown = []
        for name, value in sorted(trainer.callback_metrics.items()):
            if name.endswith("pair_accuracy") or name == "train/loss":
                shown.append(f"{name} {float(value):.4f}")
        line = ", ".join(shown)
        logger.info("step %d, %.0f s: %s", trainer.global_step, time.perf_counter() - self._began, line)
