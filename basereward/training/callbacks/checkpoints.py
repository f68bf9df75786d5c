"""Checkpoints of a run: the last state, from which it resumes, and the weights of the best validation.

last.ckpt           weights, optimizer, schedule and position in the data
best.safetensors    the trained weights of the best validation
best.json           its step, its metrics, mean and standard deviation of its scores

Each file is written whole or not at all: under a temporary name, flushed to the disk, and renamed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from basereward.data.loading import loader_fault
from basereward.errors import CheckpointError
from basereward.io.files import apply_umask, atomic_file, atomic_path, free_space, json_text, write_atomic
from basereward.runs.score_files import spread, write_scores
from basereward.runs.tracking.uploader import describe
from basereward.training.module import RewardModule

STOPPED_EARLY = "basereward.stopped_early"
"""Key of a checkpoint: whether early stopping has ended the training."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and loads no pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write the file; when that fails, an older file stays.

        Raises:
            CheckpointError: the file cannot be written, on a full disk for example.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_file(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # While the file is written, torch's signal handler may also raise the error of a loader worker that died.
            raise loader_fault(error) or CheckpointError(_disk_message(target, error)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file.

        Raises:
            CheckpointError: the file is damaged, or holds more than data.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            raise CheckpointError(
                f"the checkpoint '{path}' cannot be read: {describe(error)}. Start a new run, without --resume."
            ) from error
        return checkpoint


class Checkpoints(Callback):
    """Saves the last state at the end of every stage and every `every` steps, and the weights of the best validation.

    Args:
        folder: of the run's checkpoints.
        scores_file: where the scores of the best validation are written.
        monitor: name of the metric whose largest value is best.
        every: optimizer steps between further checkpoints; None for none.
    """

    def __init__(self, folder: Path, *, scores_file: Path, monitor: str, every: int | None = None) -> None:
        self.folder = folder
        self.scores_file = scores_file
        self.monitor = monitor
        self.every = every
        self.best = -math.inf
        self._saved_at = -1
        self._stopped_early = False

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[STOPPED_EARLY] = trainer.should_stop

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._stopped_early = checkpoint.get(STOPPED_EARLY, False)
        require_due_validation(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Early stopping decides at the end of a validation. Lightning does not store the decision in a checkpoint.
        trainer.should_stop = trainer.should_stop or self._stopped_early

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        step_complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every and step_complete and step % self.every == 0 and step != self._saved_at:
            self._saved_at = step
            trainer.save_checkpoint(self.last)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RewardModule)
        value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        # A metric that is NaN (no pairs) cannot choose a validation; then the last one counts as the best.
        better = value > self.best or math.isnan(value) or self.best == -math.inf
        if trainer.sanity_checking or trainer.state.fn != "fit" or not better:
            return
        self.best = max(self.best, value) if not math.isnan(value) else self.best
        if trainer.is_global_zero:
            self._write_best(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.last)

    def _write_best(self, trainer: Trainer, module: RewardModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / "best.safetensors"
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        try:
            with atomic_path(target) as partial:
                save_file({k: v.cpu().contiguous() for k, v in module.trained_state().items()}, partial)
                apply_umask(partial)
            # A run that is killed between these files resumes from a checkpoint before the validation, repeats it, and
            # writes all of the files again.
            write_scores(self.scores_file, module.scored)
            card = {"step": trainer.global_step, "metrics": metrics, "scores": spread(module.scored)}
            write_atomic(self.folder / "best.json", json_text(card, indent=2) + "\n")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(_disk_message(target, error)) from error

    def restore_best(self, module: RewardModule) -> dict[str, Any]:
        """Load the best weights into the module, and return the content of best.json."""
        if not (self.folder / "best.json").exists():  # without a validation the last weights are the best
            return {"step": module.global_step, "metrics": {}, "scores": {}}
        module.load_state_dict(load_file(self.folder / "best.safetensors"))
        card: dict[str, Any] = json.loads((self.folder / "best.json").read_text())
        return card


def require_due_validation(fit_loop: dict[str, Any]) -> None:
    """Make a run that resumes from the last optimizer step of a stage begin with the validation of that stage.

    The checkpoint of that step is older than the validation. Lightning would skip the validation and continue with the
    next stage, so the best weights, the metrics and the state of early stopping would lack it.

    Args:
        fit_loop: saved counters of Lightning's loops. When a validation is due, they are changed to those of a run that
            was stopped within its validation, which Lightning repeats from its first batch.
    """
    epoch, batch = fit_loop["epoch_progress"]["current"], fit_loop["epoch_loop.batch_progress"]
    if not batch["is_last_batch"] or epoch["processed"] == epoch["ready"]:
        return
    for counters in (batch["total"], batch["current"]):
        counters["completed"] = counters["processed"]
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    validation["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation["current"] = dict.fromkeys(validation["current"], 0)
    validation["is_last_batch"] = False


def _disk_message(target: Path, error: BaseException) -> str:
    # On a full disk torch raises an error about positions in a file, while it handles the error of the system.
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    earlier = f"the earlier checkpoint, {target}, is intact" if target.exists() else "there is no earlier checkpoint"
    return (
        f"a checkpoint could not be written to '{target}': {describe(cause)} ({free_space(target)}); {earlier}. "
        "Make room and run the command again, with --resume if there is an earlier checkpoint."
    )
