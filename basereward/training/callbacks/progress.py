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
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"stage {trainer.current_epoch + 1} of {trainer.max_epochs}")


class Progress(Callback):
    """Logs one line per validation."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        logger.info("training: %d stages", trainer.max_epochs)
        if not trainer.enable_validation:
            logger.info("no rows are held out for validation, so the model is that of the last step")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shown = []
        for name, value in sorted(trainer.callback_metrics.items()):
            if name.endswith("pair_accuracy") or name == "train/loss":
                shown.append(f"{name} {float(value):.4f}")
        line = ", ".join(shown)
        logger.info("step %d, %.0f s: %s", trainer.global_step, time.perf_counter() - self._began, line)
