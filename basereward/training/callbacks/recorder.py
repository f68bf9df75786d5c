"""Records a training in its run folder and on the tracking server: recipe, curves, figures, scores, model."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger

from basereward.data.module import PreferenceData
from basereward.io.lease import LostLeaseError
from basereward.io.progress import phase
from basereward.metrics.figures import margin_histogram, reliability_diagram
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.saving.saved_model import save_model
from basereward.model.sharded import whole_state
from basereward.recipe import recipe_sha256, recipe_yaml
from basereward.recipe.schema import Recipe
from basereward.runs.activity import place_of_process
from basereward.runs.locks import check_run_lock
from basereward.runs.params import AXIS
from basereward.runs.resolve_model import MODEL
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, read_scores, write_scores
from basereward.runs.tracking.mlflow_store import NOTE_TAG
from basereward.runs.tracking.system_metrics import SystemMetrics
from basereward.runs.tracking.tracker import Tracker, skipped_metrics
from basereward.training.callbacks.checkpoints import Checkpoints
from basereward.training.callbacks.loggers import close_loggers, other_loggers
from basereward.training.callbacks.run_note import dataset_inputs, run_note, split_sizes
from basereward.training.callbacks.step_timer import DATA_WAIT_SHARE, STEP_SECONDS
from basereward.training.module import RewardModule
from basereward.training.parallel.collectives import broadcast, num_ranks, wait_for_all
from basereward.training.run_identity import RunIdentity, identity_tags


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
        step = self.recorder.global_step
        skipped = {"epoch"} | (self._recorded_names if step == self._last_step else frozenset())
        values = {name: float(value) for name, value in metrics.items() if name not in skipped}
        self.recorder.metrics(values, step=step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the whole recipe is recorded at the start."""


@dataclass(frozen=True, slots=True)
class RunDetails:
    """How a new run is named, and where it belongs.

    Args:
        title: display name; None: the name of the recipe.
        parent: id of the sweep that the run belongs to.
        axes: label of each axis of a sweep's cell, by the name of the axis.

    >>> RunDetails(title="head_depth/mlp", axes={"head": "mlp"}).parent is None
    True
    """

    title: str | None = None
    parent: str | None = None
    axes: Mapping[str, str] = field(default_factory=dict)


class Recorder(Callback):
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
        self.recipe = recipe
        self.run = run
        self.data = data
        self.identity = identity
        self.details = details
        self.checkpoints = checkpoints
        self.logger = RecordLogger(self)
        self.tracker: Tracker | None = None
        self.keep_open = keep_open
        self.test_metrics: dict[str, float] = {}
        # Seconds to score a test pair.
        self.pair_s: float | None = None
        self._begun = False
        self._loggers: list[Logger] = []
        self._system_metrics: SystemMetrics | None = None
        # The step whose weights are the recorded model; None before there is one.
        self._model_step: int | None = None
        # Number of rejected rows in the record.
        self._recorded_rejections = 0
        self._trainer: Trainer | None = None

    def agree_on_run(self) -> RunFolder:
        """Take the folder of the first process on all of them, which reserve one each."""
        agreed = RunFolder(broadcast(self.run.path))
        if agreed != self.run:
            self.run = agreed
            self.checkpoints.move_to(agreed)
        return agreed

    def begin_run(self) -> None:
        """Create the folder of a new run, and write the identity of the run. Later calls have no effect."""
        if self._begun:
            return
        self._begun = True
        # A run that resumes has its folder, with the recipe and the state of its start.
        if not self.run.exists:
            self.run.begin(
                recipe_yaml(self.recipe),
                recipe_sha256=recipe_sha256(self.recipe),
                name=self.details.title or self.recipe.name,
                parent=self.details.parent,
                axes=self.details.axes,
                experiment=self.recipe.name,
            )
            # The data were read before the run had a folder, and their list was written to the cache folder.
            self.data.list_rejections_in(self.run.rejections)
        self.identity.write(self.run)

    @property
    def global_step(self) -> int:
        """Number of finished optimizer steps."""
        return 0 if self._trainer is None else self._trainer.global_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin the run and open its record before the first stage of the trainer: training, or a test alone."""
        self._trainer = trainer
        self.agree_on_run()
        if self.tracker is not None or not trainer.is_global_zero:
            return
        self.begin_run()
        tracking = self.recipe.tracking
        axes = self.run.axes
        note = run_note(self.recipe, axes=axes, sizes=split_sizes(self.data))
        tags = identity_tags(self.identity.backbone) | _prompt_tags(pl_module) | _axis_names(axes) | {NOTE_TAG: note}
        self._loggers = other_loggers(self.recipe, self.run)
        self.tracker = Tracker(self.run, loggers=self._loggers)
        with phase("opening MLflow"):
            self.tracker.start(
                self.recipe,
                uri=tracking.uri,
                experiment=tracking.experiment or self.recipe.name,
                name=self.run.name,
                tags=tags,
                # The experiment of a sweep is described by the sweep.
                axes=None if self.run.status["parent"] else [],
                summary=self.recipe.summary,
            )
        self.tracker.params({AXIS: axes} if axes else {})
        self._record_place(self.tracker, trainer.strategy.root_device)
        self.tracker.inputs(dataset_inputs(self.recipe, self.data))
        self._record_rejections(trainer)
        # Probes share a process and end within seconds.
        if tracking.system_metrics is not None and not self.recipe.probe:
            self._system_metrics = SystemMetrics(self.tracker, every_s=tracking.system_metrics)
            self._system_metrics.start()

    def _record_place(self, tracker: Tracker, device: torch.device) -> None:
        """Record where this process trains. Tags, because a run that resumes may be elsewhere."""
        place = place_of_process(num_ranks(), _device_name(device))
        tracker.tags({name: str(place[name]) for name in ("host", "job", "devices") if place[name] is not None})
        plan = self.data.plan
        steps = plan.steps if plan is not None else None
        first = tracker.last_step("train/loss")
        self.run.record_place({**place, "steps": steps, "first_step": first, "began": time.time()})

    def _record_rejections(self, trainer: Trainer) -> None:
        """Record the counts and the list of rejected rows. Those of a stream are known after it was read."""
        if len(self.data.rejected) == self._recorded_rejections:
            return
        self._recorded_rejections = len(self.data.rejected)
        self.metrics(skipped_metrics(self.data.skipped), step=trainer.global_step)
        if self.tracker is not None and self.run.rejections.exists():
            self.tracker.artifact(self.run.rejections)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """Record numbers at a step, on the one process that keeps the record.

        Args:
            values: by name.
            step: number of finished optimizer steps.
        """
        if self.tracker is None:
            return
        # Those of the test are measured with the weights that are saved, so they belong to the model too.
        of_model = {name: value for name, value in values.items() if name.startswith("test/")}
        if of_model and self._model_step is not None:
            self.tracker.metrics(of_model, step=step, model=MODEL)
            values = {name: value for name, value in values.items() if name not in of_model}
        self.tracker.metrics(values, step=step)

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
        self._model_step = int(best["step"])
        if self.tracker is not None:
            self.tracker.model(MODEL, step=self._model_step, params=_axis_names(self.run.axes))
        self._record_rejections(trainer)
        if self.checkpoints.scores_file.exists():
            self._record_scores("val", read_scores(self.checkpoints.scores_file))
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
            self._record_scores("test", pl_module.scored)
        if not self.keep_open and trainer.is_global_zero:
            self.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the record when one of Lightning's loops ends with an error or an interrupt."""
        self.abandon(exception)

    def abandon(self, error: BaseException) -> None:
        """Close the record of a run that ends with an error; does nothing when it is closed.

        Args:
            error: with which the run ends.
        """
        if self.tracker is None:
            return
        # Removed first: an error while the record is closed must not close it a second time.
        tracker, self.tracker = self.tracker, None
        # An interrupt is no Exception: the run can resume from its checkpoint.
        state: Literal["killed", "failed"] = "failed" if isinstance(error, Exception) else "killed"
        self._stop_sampling()
        # The folder and its journal belong to another process now, which ends them.
        if isinstance(error, LostLeaseError):
            return
        close_loggers(self._loggers, state)
        tracker.close(state)
        self.run.give_up(state, error)
        tracker.finish(state)

    def _record_scores(self, split: str, groups: list[ScoredGroup]) -> None:
        assert self.tracker is not None
        margins: dict[str, list[float]] = {}
        for group in groups:
            margins.setdefault(group.source, []).extend(group.margins)
        by_source = {source: torch.tensor(values) for source, values in margins.items() if values}
        self.tracker.artifact(self.run.scores / f"{split}.jsonl", folder="scores")
        # Drawing takes longer than the training of a probe.
        if by_source and not self.recipe.probe:
            self.tracker.figure(margin_histogram(by_source), name=f"{split}_margins")
            self.tracker.figure(reliability_diagram(torch.cat(list(by_source.values()))), name=f"{split}_reliability")

    def publish_model(self) -> str:
        """Record the saved model, and return the address that `load` opens."""
        assert self.tracker is not None
        assert self._model_step is not None
        self.tracker.model_files(MODEL, self.run.model, step=self._model_step)
        mlflow_id = self.tracker.run_id
        # Without a server the folder of the run is the only address.
        return f"runs:/{mlflow_id}/model" if mlflow_id else str(self.run.model)

    def finish(self) -> None:
        """Close the record, and mark the run as finished.

        Raises:
            LostLeaseError: another process has taken over the run.
        """
        check_run_lock(self.run)
        self._stop_sampling()
        close_loggers(self._loggers, "finished")
        # The journal gets its end before the folder; see `Tracker.close`.
        if self.tracker is not None:
            self.tracker.close("finished")
        self.run.mark("finished")
        if self.tracker is not None:
            self.tracker.finish("finished")
            self.tracker = None

    def _stop_sampling(self) -> None:
        if self._system_metrics is not None:
            self._system_metrics.stop()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def _axis_names(axes: Mapping[str, str]) -> dict[str, str]:
    """The axes of a cell by their names in MLflow.

    >>> _axis_names({"head": "2_silu"})
    {'axis.head': '2_silu'}
    """
    return {f"{AXIS}.{name}": label for name, label in axes.items()}


def peak_gib() -> float:
    """Return the peak memory of this process in GiB: on the GPU when there is one, else its resident set.

    >>> peak_gib() >= 0
    True
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # macOS counts bytes, Linux kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
