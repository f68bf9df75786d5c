"""What a run tells its folder and the tracking server: recipe, curves, pictures, scores, model."""

from __future__ import annotations

import hashlib
import resource
import sys
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from basereward.data.module import PreferenceData
from basereward.metrics.figures import margin_histogram, reliability_diagram
from basereward.model.saving.saved_model import save_model
from basereward.recipe.schema import Recipe
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, read_scores, write_scores
from basereward.runs.tracking.tracker import Tracker, lost_metrics
from basereward.training.callbacks.checkpoints import Checkpoints
from basereward.training.callbacks.step_timer import NAME, STEP
from basereward.training.module import RewardModule


def _prompt_tags(module: LightningModule) -> dict[str, str]:
    """The hash of what a head that speaks asks."""
    speech = getattr(module.model.head, "speech", None) if isinstance(module, RewardModule) else None
    return {} if speech is None else {"prompt.sha256": hashlib.sha256(speech.text.encode()).hexdigest()}


OF_A_STEP = ("train/", "perf/", STEP, NAME)  # how the names begin that a step of the training logs


AXIS = "axis"
"""What the names of a sweep's axes begin with among parameters and tags: `axis.head`."""


class RecordLogger(Logger):
    """Lightning's `self.log`, sent to the recorder's tracker.

    Steps are counted from 1: what is measured with the weights after N optimizer steps is recorded at step N. Lightning
    numbers a step that is under way, and a validation after it, from 0.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._stepped: tuple[int, frozenset[str]] = (-1, frozenset())  # the last step of the training, what is recorded

    @property
    def name(self) -> str:
        return "basereward"

    @property
    def version(self) -> str:
        return self.recorder.run.run_id

    def log_step(self, metrics: dict[str, Any], step: int) -> None:
        """Records, of Lightning's metrics, those of a step of the training; they are left out when they come again."""
        own = {name: float(value) for name, value in metrics.items() if name.startswith(OF_A_STEP)}
        self.recorder.metrics(own, step=step)
        self._stepped = (step, frozenset(own))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = self.recorder.global_step
        told = self._stepped[1] if step == self._stepped[0] else frozenset()
        kept = {name: float(value) for name, value in metrics.items() if name != "epoch" and name not in told}
        self.recorder.metrics(kept, step=step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe is recorded whole."""


class Recorder(Callback):
    """Starts the record when training starts, and saves and records the model when it ends.

    Args:
        recipe: the run's.
        run: its folder.
        checkpoints: that know the best weights.
        tags: of the run, besides those that every run has.
    """

    def __init__(
        self, recipe: Recipe, *, run: RunFolder, checkpoints: Checkpoints, tags: Mapping[str, str] | None = None
    ) -> None:
        self.tags = dict(tags or {})
        self.recipe = recipe
        self.run = run
        self.checkpoints = checkpoints
        self.logger = RecordLogger(self)
        self.tracker: Tracker | None = None
        self.keep_open = False  # whether more is to be recorded when training has ended
        self.test_metrics: dict[str, float] = {}
        self.pair_s: float | None = None  # that the scores of a test pair took
        self._recorded = 0  # lost rows
        self._trainer: Trainer | None = None

    @property
    def global_step(self) -> int:
        """Optimizer steps that are done."""
        return 0 if self._trainer is None else self._trainer.global_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if self.tracker is not None or not trainer.is_global_zero:
            return
        tracking = self.recipe.tracking
        self.tracker = Tracker(self.run)
        self.tracker.start(
            self.recipe,
            uri=tracking.uri,
            experiment=tracking.experiment or self.recipe.name,
            name=self.run.name,
            tags=self.tags
            | _prompt_tags(pl_module)
            | {f"{AXIS}.{name}": label for name, label in self.run.axes.items()},
        )
        self.tracker.params({AXIS: self.run.axes} if self.run.axes else {})
        self._record_lost(trainer)

    def _record_lost(self, trainer: Trainer) -> None:
        """Counts of lost rows, and their list. Of a stream they are known when it has been read."""
        data: PreferenceData = trainer.datamodule  # type: ignore[attr-defined]
        if len(data.rejected) == self._recorded:
            return
        self._recorded = len(data.rejected)
        self.metrics(lost_metrics(data.skipped), step=trainer.global_step)
        if self.tracker is not None and self.run.lost.exists():
            self.tracker.artifact(self.run.lost)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """Records numbers at a step, on the one process that keeps the record."""
        if self.tracker is not None:
            self.tracker.metrics(values, step=step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records the step here, and not where Lightning does, after every callback: a run that is killed between a
        checkpoint and the record of its step would go on without that record.
        """
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.logger.log_step(trainer.callback_metrics, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.recipe.probe:  # probes share a process, whose peak is that of whatever it did before
            self.metrics({"mem/peak_gib": peak_gib()}, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RewardModule)
        best = self.checkpoints.restore_best(pl_module)
        if not trainer.is_global_zero:
            return
        encoder = trainer.datamodule.encoder  # type: ignore[attr-defined]
        save_model(pl_module.model, self.run.model, recipe=self.recipe, encoder=encoder, scores=best["scores"])
        self.metrics({"best/step": float(best["step"])}, step=trainer.global_step)
        self._record_lost(trainer)
        if self.checkpoints.scores_file.exists():
            self._scores("val", read_scores(self.checkpoints.scores_file))
        if not self.keep_open:
            self.publish_model()
            self.finish()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RewardModule)
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.test_metrics = {name: value for name, value in found.items() if name.startswith("test/")}
        self.pair_s = found.get("time/test_pair_s")
        if trainer.is_global_zero:
            write_scores(self.run.scores / "test.jsonl", pl_module.scored)
            self._scores("test", pl_module.scored)
        if not self.keep_open:
            self.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.abandon(exception)

    def abandon(self, error: BaseException) -> None:
        """Closes the record of a run that ends with an error; does nothing when it is closed."""
        if self.tracker is None:
            return
        tracker, self.tracker = self.tracker, None
        state: Literal["killed", "failed"] = "failed" if isinstance(error, Exception) else "killed"
        tracker.close(state)
        self.run.give_up(state, error)
        tracker.finish(state)

    def _scores(self, split: str, groups: list[ScoredGroup]) -> None:
        assert self.tracker is not None
        margins: dict[str, list[float]] = {}
        for group in groups:
            margins.setdefault(group.source, []).extend(group.margins)
        by_source = {source: torch.tensor(values) for source, values in margins.items() if values}
        self.tracker.artifact(self.run.scores / f"{split}.jsonl", folder="scores")
        if by_source and not self.recipe.probe:  # to draw takes longer than a probe's training; reports have them
            self.tracker.figure(margin_histogram(by_source), name=f"{split}_margins")
            self.tracker.figure(reliability_diagram(torch.cat(list(by_source.values()))), name=f"{split}_reliability")

    def publish_model(self) -> str:
        """Sends the saved model to the tracking server and returns what `load` opens."""
        assert self.tracker is not None
        self.tracker.artifacts(self.run.model, folder="model")
        known = self.tracker.run_id
        return f"runs:/{known}/model" if known else str(self.run.model)

    def finish(self) -> None:
        """Closes the record; the run is finished."""
        if self.tracker is not None:
            self.tracker.close("finished")
        self.run.mark("finished")
        if self.tracker is not None:
            self.tracker.finish("finished")
            self.tracker = None


def peak_gib() -> float:
    """The most memory that this process has held, in GiB: on the GPU when there is one, else in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
