"""Checkpoints of a run: the last state, from which it resumes, and the weights of the best validation.

last.ckpt           weights, optimizer, schedule and position in the data
best.safetensors    the trained weights of the best validation, its step and metrics, and the scores of its pairs

Each file is written whole or not at all: under a temporary name, flushed to the disk, and renamed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from torch import Tensor

from basereward.cluster.shared_place import PREEMPTIBLE
from basereward.data.loading import loader_fault
from basereward.errors import CheckpointError
from basereward.io.files import atomic_file, free_space, write_state
from basereward.io.interrupts import Terminated, termination
from basereward.model.sharded import whole
from basereward.runs.locks import check_run_lock
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import scores_text, spread
from basereward.runs.tracking.uploader import describe
from basereward.training.module import RewardModule
from basereward.training.parallel.collectives import gather, num_ranks
from basereward.training.parallel.sharded_checkpoint import read_checkpoint
from basereward.training.recording.best_weights import (
    BEST,
    read_card,
    read_weights,
    restore_scores,
    write_best_weights,
)

STOPPED_EARLY = "basereward.stopped_early"
"""Key of a checkpoint: whether early stopping has ended the training."""
MICRO_BATCHES = "basereward.micro_batches"
"""Key of a checkpoint: the micro-batches of a step on each process."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and loads no pickled code.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "last.ckpt"
    >>> progress = {"pytorch-lightning_version": "2.6.0", "global_step": 3, "loops": {}}
    >>> AtomicCheckpointIO().save_checkpoint({**progress, "state_dict": {}, "optimizer_states": []}, file)
    >>> AtomicCheckpointIO().load_checkpoint(file)["global_step"]
    3
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write the file; when that fails, an older file stays.

        Args:
            checkpoint: what Lightning collects.
            path: of the file.
            storage_options: has no effect; files are local.

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

        Args:
            path: of the file.
            map_location: has no effect; tensors are read into the memory of the host, and Lightning moves them.
            weights_only: has no effect; pickled code is never run.

        Raises:
            DamagedCheckpointError: the file is damaged, is not the checkpoint of a run, or holds more than data.
            CheckpointError: the system cannot read it.
        """
        # Also one that several processes have written, each a part of it.
        return read_checkpoint(Path(path))


class Checkpoints(Callback):
    """Saves the last state at the end of every stage and every `every` steps, and the weights of the best validation.

    Args:
        folder: of the run's checkpoints.
        scores_file: where the scores of the best validation are written.
        monitor: name of the metric whose largest value is best.
        every: optimizer steps between further checkpoints; None for none.

    >>> checkpoints = Checkpoints(Path("run"), scores_file=Path("val.jsonl"), monitor="val/pair_accuracy")
    >>> checkpoints.state_dict()
    {'best': -inf}
    """

    def __init__(self, folder: Path, *, scores_file: Path, monitor: str, every: int | None = None) -> None:
        self.folder = folder
        self.scores_file = scores_file
        self.monitor = monitor
        self.every = every
        self.best = -math.inf
        # The step of the last further checkpoint; a step writes at most one.
        self._saved_at = -1
        self._stopped_early = False

    def move_to(self, run: RunFolder) -> None:
        """Write into another run: the processes of a run agree on its folder when it begins.

        Args:
            run: of the first process.
        """
        self.folder, self.scores_file = run.checkpoints, run.scores / self.scores_file.name

    @property
    def last(self) -> Path:
        """The checkpoint from which a run resumes."""
        return self.folder / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, so that a resumed run overwrites the best weights only with better ones."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of the run that resumes."""
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store what Lightning does not: the decision of early stopping, and the number of micro-batches of a step.

        Raises:
            LostLeaseError: another process has taken over the run, and writes its checkpoints.
        """
        check_run_lock(RunFolder(self.folder.parent))
        checkpoint[STOPPED_EARLY] = trainer.should_stop
        checkpoint[MICRO_BATCHES] = trainer.accumulate_grad_batches

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the decision of early stopping, and schedule a validation that the checkpoint is older than."""
        self._stopped_early = checkpoint.get(STOPPED_EARLY, False)
        fit_loop = checkpoint["loops"]["fit_loop"]
        now = trainer.accumulate_grad_batches
        count_micro_batches_anew(fit_loop, before=checkpoint.get(MICRO_BATCHES, now), now=now)
        require_due_validation(fit_loop)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a resumed run at once when early stopping had ended it; save before the process ends by SIGTERM."""
        # Lightning's own handler would stop between the micro-batches of a step, and one process wait for another.
        termination.reinstall()
        termination.is_deferred = True
        # Early stopping decides at the end of a validation. Lightning does not store the decision in a checkpoint.
        trainer.should_stop = trainer.should_stop or self._stopped_early

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state after every `every` steps, and when the process is asked to end.

        Raises:
            Terminated: SIGTERM came to one of the processes of the run; the state is saved.
        """
        step = trainer.global_step
        # Between the micro-batches of a step the gradients are incomplete, and a checkpoint does not hold them.
        step_complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        is_due = self.every and step % self.every == 0
        stops = step_complete and is_asked_to_end()
        if step_complete and (is_due or stops) and step != self._saved_at:
            self._saved_at = step
            trainer.save_checkpoint(self.last)
        if stops:
            raise Terminated

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """SIGTERM stops the process at once again."""
        termination.is_deferred = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """SIGTERM stops the process at once again."""
        termination.is_deferred = False

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop a long validation of a process that is asked to end; it is done again.

        Raises:
            Terminated: SIGTERM came to this process.
        """
        if termination.requested and num_ranks() == 1:
            raise Terminated

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the weights with the scores and a card when the monitored metric is better than ever before."""
        assert isinstance(pl_module, RewardModule)
        value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        # A metric that is NaN (no pairs) cannot choose a validation; then the last one counts as the best.
        better = value > self.best or math.isnan(value) or self.best == -math.inf
        if trainer.sanity_checking or trainer.state.fn != "fit" or not better:
            return
        self.best = max(self.best, value) if not math.isnan(value) else self.best
        # All processes hold a part of the weights.
        weights = {name: whole(weight) for name, weight in pl_module.trained_state().items()}
        # One writer: several processes would rename each other's files.
        if trainer.is_global_zero:
            self._write_best(trainer, pl_module, weights)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state at the end of a stage, when its validation is over."""
        trainer.save_checkpoint(self.last)

    def _write_best(self, trainer: Trainer, module: RewardModule, weights: Mapping[str, Tensor]) -> None:
        check_run_lock(RunFolder(self.folder.parent))
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / BEST
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        card = {"step": trainer.global_step, "metrics": metrics, "scores": spread(module.scored)}
        text = scores_text(module.scored)
        try:
            # One file: the weights of one validation must never stand beside the scores of another one.
            write_best_weights(target, weights, card=card, scores=text)
            # For reports of a run that is still training. If the process is killed here, `restore_scores` writes it.
            write_state(self.scores_file, text)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(_disk_message(target, error)) from error

    def restore_best(self, module: RewardModule) -> dict[str, Any]:
        """Load the best weights into the module.

        Args:
            module: in which the weights of the last step are replaced.

        Returns:
            `step`, `metrics` and `scores` (mean and standard deviation) of the best validation.

        Raises:
            DamagedCheckpointError: the file cannot be read.
        """
        file = self.folder / BEST
        card = read_card(file) if file.exists() else None
        # A run that an earlier version began has the card in a file of its own.
        earlier = self.folder / "best.json"
        if card is None and earlier.exists():
            card = json.loads(earlier.read_text())
        # Without a validation the last weights are the best ones.
        if card is None:
            return {"step": module.global_step, "metrics": {}, "scores": {}}
        module.load_state_dict(read_weights(file))
        return card

    def restore_scores(self) -> None:
        """Write the file of the scores of the best validation again, where a killed process has not."""
        restore_scores(self.folder / BEST, self.scores_file)


def is_asked_to_end() -> bool:
    """Whether SIGTERM came to one of the processes of the run.

    >>> is_asked_to_end()
    False
    """
    if num_ranks() == 1:
        return termination.requested
    # They must stop at the same step. Only where a machine may be taken away: it costs a message at every step.
    return PREEMPTIBLE in os.environ and any(gather(termination.requested))


def count_micro_batches_anew(fit_loop: dict[str, Any], *, before: int, now: int) -> None:
    """Change the position in a stage to the micro-batches of this run: it may have resumed on more or fewer processes.

    A checkpoint is written after a whole step, so its position is a multiple of the micro-batches of a step.

    Args:
        fit_loop: saved counters of Lightning's loops, which are changed.
        before: micro-batches of a step on each process of the run that wrote the checkpoint.
        now: the same of this run.

    >>> counts = {"ready": 6, "started": 6, "processed": 6, "completed": 5}
    >>> loops = {"epoch_loop.batch_progress": {"total": counts, "current": dict(counts)}}
    >>> count_micro_batches_anew(loops, before=3, now=2)
    >>> loops["epoch_loop.batch_progress"]["current"]
    {'ready': 4, 'started': 4, 'processed': 4, 'completed': 3}
    """
    progress = fit_loop["epoch_loop.batch_progress"]
    for counters in (progress["total"], progress["current"]):
        processed = counters["processed"]
        for name, count in counters.items():
            # The checkpoint of a step is written before Lightning counts its last micro-batch as completed.
            counters[name] = processed // before * now + count - processed


def require_due_validation(fit_loop: dict[str, Any]) -> None:
    """Make a run that resumes from the last optimizer step of a stage begin with the validation of that stage.

    The checkpoint of that step is older than the validation. Lightning would skip the validation and continue with the
    next stage, so the best weights, the metrics and the state of early stopping would lack it.

    Args:
        fit_loop: saved counters of Lightning's loops. When a validation is due, they are changed to those of a run that
            was stopped within its validation, which Lightning repeats from its first batch.

    >>> def progress(**counts):
    ...     return dict.fromkeys(("ready", "started", "processed", "completed"), 0) | counts
    >>> batches = {"total": progress(processed=4), "current": progress(processed=4), "is_last_batch": True}
    >>> loops = {
    ...     "epoch_progress": {"current": progress(ready=1)},
    ...     "epoch_loop.batch_progress": batches,
    ...     "epoch_loop.val_loop.batch_progress": {"current": progress(), "is_last_batch": True},
    ... }
    >>> require_due_validation(loops)
    >>> loops["epoch_loop.val_loop.batch_progress"]["total"]["ready"], batches["current"]["completed"]
    (1, 4)
    """
    epoch, batch = fit_loop["epoch_progress"]["current"], fit_loop["epoch_loop.batch_progress"]
    if not batch["is_last_batch"] or epoch["processed"] == epoch["ready"]:
        return
    # Lightning counts a batch as completed only after the callbacks, one of which has written this checkpoint.
    for counters in (batch["total"], batch["current"]):
        counters["completed"] = counters["processed"]
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    # By these counts, a batch that was started and not processed, Lightning recognises an interrupted validation.
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
