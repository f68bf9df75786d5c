"""Records a run for MLflow without delaying the run and without losing a record.

Every record goes into the journal of the run first; a thread uploads it from there. While the server is unreachable the
run continues. The records are uploaded when the server is back, by the same run or by the next `deliver_pending`.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from basereward.errors import RunError, sentence
from basereward.io.files import write_state
from basereward.io.secrets import redact
from basereward.recipe.schema import Recipe
from basereward.runs.params import clean_name, flatten
from basereward.runs.provenance import provenance
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.journal import Record, RunJournal
from basereward.runs.tracking.mlflow_model import write_mlflow_model
from basereward.runs.tracking.mlflow_store import RUN_TAG, load_mlflow, masked, mlflow_uploader, tracking_uri
from basereward.runs.tracking.resync import deliver_pending
from basereward.runs.tracking.upload_worker import UploadWorker
from basereward.runs.tracking.uploader import Refused, describe

__all__ = ["Tracker", "check_store", "deliver_pending"]

log = logging.getLogger(__name__)

START_WAIT_S = 15.0
"""Seconds that the start of a run waits for the server's first answer, so that a wrong address is an error at once."""
FINISH_LIMIT_S = 20.0
"""Seconds without progress after which the end of a run leaves the rest to a later call."""
VALUES_PER_RECORD = 500
"""So that two records of metrics still fit into one request of MLflow."""
REASON_CHARACTERS = 1000
"""Length limit of the reason for which MLflow rejects a run; the advice often comes last."""


class Figure(Protocol):
    """A matplotlib figure. The protocol keeps this file from importing matplotlib."""

    def savefig(self, fname: Any, *, format: str) -> None:
        """Write the figure, as `matplotlib.figure.Figure` does."""


class MetricLogger(Protocol):
    """Another place for the metrics of a run, such as a logger of Lightning."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record numbers at a step."""


class Tracker:
    """The record of one run, or of one sweep. No fault of the server, the network or the disk reaches the training.

    Records made before `start` are kept until it is called. Every method may be called from any thread.

    Args:
        folder: of the run.
        loggers: get all metrics too.
    """

    def __init__(self, folder: RunFolder, *, loggers: Sequence[MetricLogger] = ()) -> None:
        self.folder = folder
        self._loggers = list(loggers)
        self._loggers_lock = threading.Lock()
        self._journal: RunJournal = folder.journal
        self._worker: UploadWorker | None = None
        # The address of the server without a password, for messages.
        self._address = ""
        self._lock = threading.Lock()
        self._unwritten: list[Record] = []
        # The last step of each metric that an earlier process recorded.
        self._last_steps: dict[str, int] = {}
        self._warned_of_disk = False
        # Whether there are metrics of this process or of an earlier one.
        self.has_metrics = False
        # Whether the journal has its last record, after which nothing may follow.
        self._closed = False

    def start(
        self,
        recipe: Recipe | None = None,
        *,
        experiment: str,
        uri: str | None = None,
        name: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        axes: Sequence[str] | None = None,
        summary: str = "",
    ) -> None:
        """Start the record with the recipe, commit, packages and machine, or continue the record of a stopped run.

        Waits some seconds for the first answer of the server; without an answer the run continues. A folder that has a
        record already continues with the same MLflow run, store and names. Metrics that it holds, by name and step, are
        not recorded again.

        Args:
            recipe: recorded as parameters, beside the file recipe.yaml.
            experiment: name of MLflow's experiment; created when it does not exist.
            uri: address of the store; by default $MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
            name: display name of the run; by default the name in the run folder.
            parent: id of a run folder or of an MLflow run; by default the parent in the run folder.
            tags: further tags of the run.
            axes: names of the parameters that a new experiment's view of its runs shows; None makes no view.
            summary: of a new experiment, in its description.

        Raises:
            RunError: the server rejects the run, or another process records into this folder.
        """
        names = {"experiment": experiment, "name": name, "parent": parent, "uri": tracking_uri(uri)}
        self._acquire()
        earlier_start = self._journal.start()
        if earlier_start is None:
            opening = self._start_record(names, tags or {})
            if axes is not None:
                opening |= {"axes": list(axes), "summary": redact(summary)}
        else:
            opening = {"kind": "reopen"}
            self._last_steps = _last_steps(self._journal)
            self.has_metrics = bool(self._last_steps)
        self._begin(opening, address=masked(str((earlier_start or opening)["uri"])))
        if earlier_start is None:
            self.artifact(self.folder.recipe)
            self.params(asdict(recipe) if recipe is not None else {})
        self._start_upload()

    def _acquire(self) -> None:
        # Here, not in the thread: a library that two threads import at the same time can be seen half initialised.
        load_mlflow()
        if not self._journal.acquire():
            raise RunError(f"Another process records into {self.folder.path}; wait until it ends, or stop it.")

    def _begin(self, opening: Record, *, address: str) -> None:
        """Append the first record, before those that were made earlier; from now on records go to the journal."""
        self._closed = False
        self._address = address
        self._worker = UploadWorker(mlflow_uploader(self._journal), address=address)
        self._unwritten.insert(0, opening)
        self._append([])

    def _start_upload(self) -> None:
        """Start the upload, and wait for the first answer of the server.

        Raises:
            RunError: the server rejects the run.
        """
        assert self._worker is not None
        self._worker.start(wait_s=START_WAIT_S)
        if isinstance(self._worker.error, Refused):
            raise self._refusal(self._worker)

    def _start_record(self, names: Mapping[str, str | None], tags: Mapping[str, str]) -> Record:
        """The first record of a journal: everything from which the run is created on the server."""
        status = self.folder.status
        defaults = {key: names[key] or status[key] for key in ("name", "parent")}
        own_tags = {
            RUN_TAG: self.folder.run_id,
            "basereward.kind": status["kind"],
            "recipe.sha256": status["recipe_sha256"],
        }
        # Our own tags come last: `find_run` searches by them, so no user's tag may replace them.
        all_tags = {**provenance(), **_clean_tags(tags), **own_tags}
        return {"kind": "start", **names, **defaults, "tags": all_tags, "time": now_ms()}

    def _refusal(self, worker: UploadWorker) -> RunError:
        reason = describe(worker.error, limit=REASON_CHARACTERS) if worker.error else "unknown"
        worker.drain(limit_s=0.0)
        # Without a worker nothing more is recorded.
        self._worker = None
        if self.run_id is None:
            self._journal.delete()
        return RunError(f"MLflow at {self._address} rejects the run: {sentence(reason)}")

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the server was reached."""
        return self.folder.mlflow_run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters. Nested mappings get dotted names; secrets are masked."""
        flat = {name: redact(value) for name, value in flatten(values).items()}
        self._append([{"kind": "params", "values": flat}] if flat else [])

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags, which replace tags of the same name; secrets are masked."""
        self._append([{"kind": "tags", "values": _clean_tags(values)}])

    def inputs(self, datasets: Iterable[Mapping[str, str]]) -> None:
        """Record data sets that the run reads.

        Args:
            datasets: for each `name`, `digest`, `source_type` and `source` as in MLflow's entity, `profile` (JSON), and
                `context`: what it is read for.
        """
        items = [{key: redact(value) for key, value in fields.items()} for fields in datasets]
        self._append([{"kind": "inputs", "datasets": items}] if items else [])

    def model(self, name: str, *, step: int, params: Mapping[str, str] | None = None) -> None:
        """Record that the run makes a model; its files follow by `model_files`.

        Args:
            name: of the model among those of the run.
            step: whose weights it has.
            params: of the model, such as the axes of a sweep.
        """
        self._append([self._model_record(name, step=step, params=params or {}, ready=False)])

    def model_files(self, name: str, folder: Path, *, step: int) -> None:
        """Make the folder of a saved model an MLflow model, and record its files.

        Args:
            name: as of `model`.
            folder: of the model.
            step: as of `model`.
        """
        try:
            write_mlflow_model(folder, metadata={"run_id": self.folder.run_id})
        except OSError as error:
            log.warning("%s cannot be made an MLflow model: %s.", folder, describe(error))
        self.artifacts(folder, model=name)
        self._append([self._model_record(name, step=step, params={}, ready=True)])

    def _model_record(self, name: str, *, step: int, params: Mapping[str, str], ready: bool) -> Record:
        return {"kind": "model", "name": name, "step": int(step), "params": _clean_tags(params), "ready": ready}

    def metrics(
        self, values: Mapping[str, float], *, step: int, model: str | None = None, time_ms: int | None = None
    ) -> None:
        """Record numbers at a step; a NaN stays a NaN.

        Args:
            values: by name.
            step: number of finished optimizer steps.
            model: name of the recorded model that they are measured on.
            time_ms: when they were measured, in milliseconds since 1970; None: now.
        """
        named = [(clean_name(key), float(value)) for key, value in values.items()]
        # A resumed run repeats the steps after its checkpoint; the journal already holds their metrics.
        new = [(key, value) for key, value in named if step > self._last_steps.get(key, step - 1)]
        self._log_elsewhere(dict(new), step=step)
        head = {"kind": "metrics", "step": int(step), "time": time_ms or now_ms()}
        head |= {"model": model} if model else {}
        parts = [new[i : i + VALUES_PER_RECORD] for i in range(0, len(new), VALUES_PER_RECORD)]
        self._append({**head, "values": dict(part)} for part in parts)
        self.has_metrics |= bool(parts)

    def last_step(self, metric: str) -> int:
        """The last step of a metric that an earlier process recorded; 0 for none."""
        return self._last_steps.get(metric, 0)

    def _log_elsewhere(self, values: dict[str, float], *, step: int) -> None:
        """Send metrics to the other loggers. One that fails is left out from then on: it must not stop the run."""
        # The samples of the machine come from another thread.
        with self._loggers_lock:
            for logger in list(self._loggers) if values else ():
                try:
                    logger.log_metrics(values, step=step)
                except Exception as error:  # noqa: BLE001 - a library of others; MLflow's record continues
                    self._loggers.remove(logger)
                    log.warning("%s gets no more metrics: %s.", type(logger).__name__, describe(error))

    def artifact(self, path: Path | str, *, folder: str = "", copy: bool = False, model: str | None = None) -> None:
        """Record a file under its own name.

        Args:
            path: the file. It is uploaded later, from where it is; a file outside the run folder is copied at once.
            folder: folder among the run's artifacts, or among the files of the model; '' for none.
            copy: copy the file at once, because it will change.
            model: name of the recorded model that the file belongs to; None: it is an artifact of the run.
        """
        path = Path(path).absolute()
        copied = copy or not path.is_relative_to(self.folder.path)
        try:
            source = self._journal.copy_file(path) if copied else path
        except OSError as error:
            log.warning("The file %s is not recorded: %s.", path, describe(error))
            return
        relative = source.relative_to(self.folder.path).as_posix()
        record: Record = {"kind": "artifact", "path": relative, "folder": folder, "copied": copied}
        self._append([record | ({"model": model} if model else {})])

    def artifacts(self, path: Path | str, *, folder: str = "", copy: bool = False, model: str | None = None) -> None:
        """Record every file of a folder and its subfolders; see `artifact`."""
        root = Path(path)
        for file in sorted(entry for entry in root.rglob("*") if entry.is_file()):
            subfolder = file.parent.relative_to(root).as_posix()
            target = "/".join(part for part in (folder, subfolder) if part not in ("", "."))
            self.artifact(file, folder=target, copy=copy, model=model)

    def figure(self, figure: Figure, name: str) -> None:
        """Save a figure as `figures/NAME.png` in the run folder and record it; it replaces an earlier one."""
        image = io.BytesIO()
        figure.savefig(image, format="png")
        path = self.folder.figures / f"{name.removesuffix('.png')}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_state(path, image.getvalue())
        except OSError as error:
            log.warning("The figure %s is not recorded: %s.", path, describe(error))
            return
        self.artifact(path, folder="figures")

    def close(self, status: Literal["finished", "failed", "killed"]) -> None:
        """Append the end to the journal, without waiting for its upload; call `finish` afterwards.

        Only the first call counts. It comes before the state of the folder is final: when the process dies in between,
        the run is over both in its folder and in MLflow, which would otherwise show it as RUNNING for ever.
        """
        if self._worker is not None and not self._closed:
            self._closed = True
            self._append([{"kind": "finish", "status": status.upper(), "time": now_ms()}])

    def finish(
        self, status: Literal["finished", "failed", "killed"] = "finished", *, limit_s: float = FINISH_LIMIT_S
    ) -> bool:
        """End the record and wait for its upload. Without a `start`, nothing happens.

        The journal keeps what is not uploaded for the next `deliver_pending`. The state of the folder does not change.

        Args:
            status: how the run ended.
            limit_s: seconds to wait without progress.

        Returns:
            Whether everything is uploaded.
        """
        if self._worker is None:
            return True
        self.close(status)
        # Writes the records that a full disk rejected earlier.
        self._append([])
        delivered = self._worker.drain(limit_s=limit_s) and not self._unwritten
        if not delivered:
            log.warning(
                "MLflow lacks records of run %s. They are kept in %s; the next `basereward train` or "
                "`basereward sweep` uploads them.",
                self.folder.run_id,
                self._journal.folder,
            )
        return delivered

    def _append(self, records: Iterable[Record]) -> None:
        """Append records to the journal; on a full disk keep them in memory until the next call."""
        with self._lock:
            self._unwritten.extend(records)
            if self._worker is None:
                return
            try:
                self._journal.append(self._unwritten)
            except OSError as error:
                if not self._warned_of_disk:
                    log.warning("Records of run %s cannot be written now: %s.", self.folder.run_id, describe(error))
                self._warned_of_disk = True
            else:
                self._unwritten.clear()


def check_store(uri: str | None) -> None:
    """Check the address of the store before work begins that would be recorded there.

    Raises:
        RunError: MLflow does not support such a store.
    """
    tracking_uri(uri)


def check_store_of_machines(uri: str | None) -> None:
    """Check that a store can be written from several machines.

    Raises:
        RunError: it is a SQLite file, whose locks do not hold between machines: records would be lost.

    >>> check_store_of_machines("sqlite:////data/mlflow.db")
    Traceback (most recent call last):
    basereward.errors.RunError: the runs would be recorded in 'sqlite:////data/mlflow.db' from several machines, ...
    """
    address = tracking_uri(uri)
    if address.startswith("sqlite:"):
        raise RunError(
            f"the runs would be recorded in '{address}' from several machines, and a SQLite file breaks when two of "
            "them write to it. Start a server on one of them, `mlflow server --host 0.0.0.0 --backend-store-uri "
            f"{address}`, and set MLFLOW_TRACKING_URI=http://HOST:5000 for the sweep. Runs recorded so far stay"
        )


def skipped_metrics(skipped: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The number of skipped rows per reason, as metrics.

    Args:
        skipped: counts by source and reason.

    >>> skipped_metrics({"a": {"too_long": 2}, "b": {"too_long": 1, "no_prompt": 1}})
    {'data/skipped/too_long': 3.0, 'data/skipped/no_prompt': 1.0}
    """
    totals: Counter[str] = Counter()
    for reasons in skipped.values():
        totals.update(reasons)
    return {f"data/skipped/{reason}": float(number) for reason, number in totals.items()}


def now_ms() -> int:
    """Milliseconds since 1970, the unit of time in MLflow."""
    return time.time_ns() // 1_000_000


def _clean_tags(values: Mapping[str, str]) -> dict[str, str]:
    return {clean_name(key): redact(str(value)) for key, value in values.items()}


def _last_steps(journal: RunJournal) -> dict[str, int]:
    """The last recorded step of each metric."""
    steps: dict[str, int] = {}
    position = 0
    while records := journal.read(position):
        for record, _ in records:
            if record["kind"] == "metrics":
                steps.update(dict.fromkeys(record["values"], record["step"]))
        position = records[-1][1]
    return steps
