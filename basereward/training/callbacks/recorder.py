"""Records a training by Lightning in its run folder and on the tracking server."""

from __future__ import annotations

import hashlib
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from basereward.data.module import PreferenceData
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.saving.saved_model import save_model
from basereward.model.sharded import whole_state
from basereward.recipe.schema import Recipe
from basereward.runs.locks import check_run_lock
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import read_scores, write_scores
from basereward.training.callbacks.checkpoints import Checkpoints
from basereward.training.callbacks.step_timer import DATA_WAIT_SHARE, STEP_SECONDS
from basereward.training.module import RewardModule
from basereward.training.parallel.collectives import wait_for_all
from basereward.training.recording.run_record import RunDetails, RunRecord, peak_gib
from basereward.training.run_identity import RunIdentity


def _prompt_tags(module: LightningModule) -> dict[str, str]:
    """A tag with the hash of the prompt of a generative head; no tag for other heads."""
    if not isinstance(module, RewardModule) or not isinstance(module.model.head, GenerativeHead):
        return {}
    return {"prompt.sha256": hashlib.sha256(module.model.head.branch_template.text.encode()).hexdigest()}


STEP_METRICS = ("train/", "perf/", STEP_SECONDS, DATA_WAIT_SHARE)
"""Prefixes of the metrics that an optimizer step logs."""


class RecordLogger(Logger):
    """Sends what Lightning logs to the tracker of a recorder.

    Steps count from 1: what is measured with the weights after N optimizer steps is recorded at step N. Lightning
    counts the current step, and a validation after it, from 0.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._last_step = -1
        # Names of the metrics that `log_step` has recorded at the last step.
        self._recorded_names: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """A constant: Lightning names folders after it, and no files are written here."""
        return "basereward"

    @property
    def version(self) -> str:
        """The id of the run."""
        return self.recorder.run.run_id

    def log_step(self, metrics: dict[str, Any], step: int) -> None:
        """Record the metrics of an optimizer step; `log_metrics` then skips them.

        Args:
            metrics: all that were logged so far; those of validations are left out.
            step: number of finished optimizer steps.
        """
        values = {name: float(value) for name, value in metrics.items() if name.startswith(STEP_METRICS)}
        self.recorder.metrics(values, step=step)
        self._last_step, self._recorded_names = step, frozenset(values)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record metrics at the number of finished steps, without those that `log_step` has recorded.

        Args:
            metrics: of a step, a validation or a test, by name.
            step: has no effect, because Lightning's number is that of the current step.
        """
        step = self.recorder.finished_steps
        skipped = {"epoch"} | (self._recorded_names if step == self._last_step else frozenset())
        values = {name: float(value) for name, value in metrics.items() if name not in skipped}
        self.recorder.metrics(values, step=step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the whole recipe is recorded at the start."""


class Recorder(RunRecord, Callback):
    """Begins a run and its record when training starts; saves and records the model when training ends.

    Args:
        recipe: of the run.
        run: its folder; that of a new run is created when training starts.
        data: of the run, after `setup`.
        identity: of backbone and data, for the folder and for tags.
        details: names of a new run.
        checkpoints: the callback that holds the best weights.
        keep_open: whether something follows after training, such as the test; then the caller ends the record with
            `publish_model` and `finish`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        run: RunFolder,
        data: PreferenceData,
        identity: RunIdentity,
        details: RunDetails,
        checkpoints: Checkpoints,
        keep_open: bool = False,
    ) -> None:
        super().__init__(recipe, run=run, rows=data, identity=identity, details=details)
        self.data = data
        self.checkpoints = checkpoints
        self.logger = RecordLogger(self)
        self.keep_open = keep_open
        self.test_metrics: dict[str, float] = {}
        # Seconds to score a test pair.
        self.pair_s: float | None = None
        self._trainer: Trainer | None = None

    def agree_on_run(self) -> RunFolder:
        """Take the folder of the first process on all of them, which reserve one each."""
        before = self.run
        if super().agree_on_run() != before:
            self.checkpoints.move_to(self.run)
        return self.run

    @property
    def finished_steps(self) -> int:
        """Number of finished optimizer steps."""
        return 0 if self._trainer is None else self._trainer.global_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin the run and open its record before the first stage of the trainer: training, or a test alone."""
        self._trainer = trainer
        self.agree_on_run()
        if self.tracker is not None or not trainer.is_global_zero:
            return
        steps = self.data.plan.steps if self.data.plan is not None else None
        self.open(device=trainer.strategy.root_device, steps=steps, tags=_prompt_tags(pl_module))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop a process that has lost the run to another one.

        Raises:
            LostLeaseError: another process has taken over the run.
        """
        check_run_lock(self.run)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the step.

        Lightning would do so after all callbacks, among them the one that writes checkpoints. A run that is killed in
        between would resume after the step and never record it.
        """
        step_complete = trainer.is_global_zero and (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if step_complete and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.logger.log_step(trainer.callback_metrics, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the peak of the memory at the end of a stage."""
        # Probes share a process, whose peak may be that of an earlier probe.
        if not self.recipe.probe:
            self.metrics({"mem/peak_gib": peak_gib()}, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the best weights, save the model, and record the validation scores of these weights."""
        assert isinstance(pl_module, RewardModule)
        # The files of the first process are complete when all are here.
        wait_for_all()
        # On every process: a test may follow, and it runs with the weights that are saved.
        best = self.checkpoints.restore_best(pl_module)
        model = pl_module.model
        weights = whole_state(model)
        if not trainer.is_global_zero:
            return
        check_run_lock(self.run)
        save_model(
            *(model, self.run.model),
            recipe=self.recipe,
            encoder=self.data.encoder,
            scores=best["scores"],
            weights=weights,
        )
        self.metrics({"train/best_step": float(best["step"])}, step=trainer.global_step)
        self.record_model(step=int(best["step"]))
        self.record_rejections(step=trainer.global_step)
        self.checkpoints.restore_scores()
        if self.checkpoints.scores_file.exists():
            self.record_scores("val", read_scores(self.checkpoints.scores_file))
        if not self.keep_open:
            self.publish_model()
            self.finish()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metrics of the test, and record its scores."""
        assert isinstance(pl_module, RewardModule)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.test_metrics = {name: value for name, value in values.items() if name.startswith("test/")}
        self.pair_s = values.get("time/test_pair_s")
        if trainer.is_global_zero:
            write_scores(self.run.scores / "test.jsonl", pl_module.scored)
            self.record_scores("test", pl_module.scored)
        if not self.keep_open and trainer.is_global_zero:
            self.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the record when one of Lightning's loops ends with an error or an interrupt."""
        self.abandon(exception)
