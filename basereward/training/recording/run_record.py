"""The record of a training in its run folder and on the tracking server: recipe, metrics, figures, scores, model."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from pytorch_lightning.loggers import Logger

from basereward.data.schema.group import RejectedRow, Split
from basereward.io.lease import LostLeaseError
from basereward.io.progress import phase
from basereward.metrics.figures import margin_histogram, reliability_diagram
from basereward.recipe import recipe_sha256, recipe_yaml
from basereward.recipe.schema import Recipe
from basereward.runs.activity import place_of_process
from basereward.runs.locks import check_run_lock
from basereward.runs.params import AXIS
from basereward.runs.resolve_model import MODEL
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup
from basereward.runs.tracking.mlflow_store import NOTE_TAG
from basereward.runs.tracking.system_metrics import SystemMetrics
from basereward.runs.tracking.tracker import Tracker, skipped_metrics
from basereward.training.callbacks.loggers import close_loggers, other_loggers
from basereward.training.callbacks.run_note import dataset_inputs, run_note, split_sizes
from basereward.training.parallel.collectives import broadcast, num_ranks
from basereward.training.run_identity import RunIdentity, identity_tags


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


class RunRows(Protocol):
    """The rows of a run, as far as they are recorded; `PreferenceData` has these members after `setup`."""

    @property
    def content(self) -> Mapping[str, Mapping[str, str]]:
        """A hash of the groups of each split, by source."""
        ...

    @property
    def lengths(self) -> Mapping[Split, Mapping[str, Sized]]:
        """The usable groups, or something of each, by split and source."""
        ...

    @property
    def rejected(self) -> Sequence[RejectedRow]:
        """The rejected rows."""
        ...

    @property
    def skipped(self) -> Mapping[str, Mapping[str, int]]:
        """The number of rejected rows by source and reason."""
        ...

    def list_rejections_in(self, file: Path) -> None:
        """List the rejected rows in a file."""
        ...


class RunRecord:
    """Begins a run, records its metrics, scores and model, and ends it.

    Args:
        recipe: of the run.
        run: its folder; that of a new run is created by `begin_run`.
        rows: that it reads.
        identity: of backbone and data, for the folder and for tags.
        details: names of a new run.

    Attributes:
        tracker: None before `open`, after the end, and on all processes but the first.
    """

    def __init__(
        self, recipe: Recipe, *, run: RunFolder, rows: RunRows, identity: RunIdentity, details: RunDetails
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.rows = rows
        self.identity = identity
        self.details = details
        self.tracker: Tracker | None = None
        self._begun = False
        self._loggers: list[Logger] = []
        self._system_metrics: SystemMetrics | None = None
        # The step whose weights are the recorded model; None before there is one.
        self._model_step: int | None = None
        # Number of rejected rows in the record.
        self._recorded_rejections = 0

    def agree_on_run(self) -> RunFolder:
        """Use the folder of the first process in all processes, each of which has reserved one."""
        self.run = RunFolder(broadcast(self.run.path))
        return self.run

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
            self.rows.list_rejections_in(self.run.rejections)
        self.identity.write(self.run)

    def open(self, *, device: torch.device, steps: int | None, tags: Mapping[str, str] | None = None) -> None:
        """Begin the run, and open its record.

        Args:
            device: of this process.
            steps: optimizer steps of the whole run; None where they are not known.
            tags: further tags of a new record.
        """
        self.begin_run()
        tracking, axes = self.recipe.tracking, self.run.axes
        note = run_note(self.recipe, axes=axes, sizes=split_sizes(self.rows.lengths))
        self._loggers = other_loggers(self.recipe, self.run)
        self.tracker = Tracker(self.run, loggers=self._loggers)
        with phase("opening MLflow"):
            self.tracker.start(
                self.recipe,
                uri=tracking.uri,
                experiment=tracking.experiment or self.recipe.name,
                name=self.run.name,
                tags=identity_tags(self.identity.backbone) | dict(tags or {}) | axis_names(axes) | {NOTE_TAG: note},
                # The experiment of a sweep is described by the sweep.
                axes=None if self.run.status["parent"] else [],
                summary=self.recipe.summary,
            )
        self.tracker.params({AXIS: axes} if axes else {})
        self._record_place(self.tracker, device, steps)
        self.tracker.inputs(dataset_inputs(self.recipe, content=self.rows.content, lengths=self.rows.lengths))
        self.record_rejections(step=self.finished_steps)
        # Probes share a process and end within seconds.
        if tracking.system_metrics is not None and not self.recipe.probe:
            self._system_metrics = SystemMetrics(self.tracker, every_s=tracking.system_metrics)
            self._system_metrics.start()

    @property
    def finished_steps(self) -> int:
        """Number of finished optimizer steps; what trains the run knows it."""
        return 0

    def _record_place(self, tracker: Tracker, device: torch.device, steps: int | None) -> None:
        """Record where this process trains. Tags, because a run that resumes may be elsewhere."""
        place = place_of_process(num_ranks(), _device_name(device))
        tracker.tags({name: str(place[name]) for name in ("host", "job", "devices") if place[name] is not None})
        first = tracker.last_step("train/loss")
        self.run.record_place({**place, "steps": steps, "first_step": first, "began": time.time()})

    def record_rejections(self, *, step: int) -> None:
        """Record the counts and the list of rejected rows, if there are new ones."""
        if len(self.rows.rejected) == self._recorded_rejections:
            return
        self._recorded_rejections = len(self.rows.rejected)
        self.metrics(skipped_metrics(self.rows.skipped), step=step)
        if self.tracker is not None and self.run.rejections.exists():
            self.tracker.artifact(self.run.rejections)

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
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

    def record_model(self, *, step: int) -> None:
        """Record that the run has a model, whose files follow by `publish_model`.

        Args:
            step: whose weights it has.
        """
        self._model_step = step
        if self.tracker is not None:
            self.tracker.model(MODEL, step=step, params=axis_names(self.run.axes))

    def record_scores(self, split: str, groups: Sequence[ScoredGroup]) -> None:
        """Record the file of the scores of a split, and figures of their margins.

        Args:
            split: of the scores.
            groups: that the file holds.
        """
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
        return self.address_of_model()

    def address_of_model(self) -> str:
        """The address of the model; without a server the folder of the run is the only one."""
        mlflow_id = self.tracker.run_id if self.tracker is not None else None
        return f"runs:/{mlflow_id}/model" if mlflow_id else str(self.run.model)

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


def axis_names(axes: Mapping[str, str]) -> dict[str, str]:
    """The axes of a cell by their names in MLflow.

    >>> axis_names({"head": "2_silu"})
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
