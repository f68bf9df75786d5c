"""Tells MLflow what a run does, without ever holding it up or losing a record.

Everything goes into the run's outbox first; a thread takes it from there to the server. While the server is away the
run goes on; what is left over is delivered when it is back, by the same run or by the next call of `deliver_pending`.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from basereward.errors import RunError
from basereward.io.files import write_atomic
from basereward.io.secrets import redact
from basereward.recipe.schema import Recipe
from basereward.runs.tracking.uploader import Refused, describe
from basereward.runs.tracking.mlflow_store import RUN_TAG, courier, load_mlflow, masked, tracking_uri
from basereward.runs.tracking.journal import RunJournal, Record
from basereward.runs.params import clean_name, flatten
from basereward.runs.tracking.resync import deliver_pending
from basereward.runs.provenance import provenance
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.upload_worker import Worker

__all__ = ["Tracker", "check_store", "deliver_pending"]

log = logging.getLogger(__name__)

START_WAIT_S = 15.0
FINISH_LIMIT_S = 20.0
VALUES_A_RECORD = 500
REASON_LETTERS = 1000
"""Of a reason for which MLflow takes no run; what to do about it often comes last."""


class Figure(Protocol):
    """A picture that matplotlib draws; this file need not know how."""

    def savefig(self, fname: Any, *, format: str) -> None: ...


class Tracker:
    """The record of one run, or of one sweep. No fault of the server, the network or the disk reaches the training.

    What is recorded before `start` waits for it. Every method may be called from any thread.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._outbox: RunJournal = folder.outbox
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._unwritten: list[Record] = []
        self._logged: dict[str, int] = {}  # last step of each metric that an earlier process has recorded
        self._told = False
        self._closed = False  # whether the end of the record is in it

    def start(
        self,
        recipe: Recipe | None = None,
        *,
        experiment: str,
        uri: str | None = None,
        name: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the record, with the recipe, commit, packages and machine; or go on with that of a stopped run.

        Waits for the first answer of the server, for seconds; when none comes the run goes on without it. A folder that
        has a record already goes on with the same MLflow run, store and names; metrics that it has, by name and step,
        are left out when they come again.

        Args:
            recipe: recorded as parameters, beside the file recipe.yaml.
            experiment: MLflow's, made when it is not there.
            uri: of the store; by default $MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db`.
            name: shown for the run; by default the folder's.
            parent: id of a run folder or of an MLflow run; by default the folder's.
            tags: shown beside our own.

        Raises:
            RunError: the server answers that it will not take the run, or another process works on this folder.
        """
        where = tracking_uri(uri)
        # Here, not in the thread: two threads that import large libraries at once may see them half made.
        load_mlflow()
        if not self._outbox.acquire():
            raise RunError(f"Another process is at work on {self.folder.path}; wait for it, or stop it.")
        before = self._outbox.start()
        if before is not None:
            opening: Record = {"kind": "reopen"}
            self._logged = _last_steps(self._outbox)
        else:
            names = {"experiment": experiment, "name": name, "parent": parent}
            opening = self._opening({**names, "uri": where}, tags or {})
        where = masked(str((before or opening)["uri"]))
        self._closed = False
        self._worker = Worker(courier(self._outbox), where=where)
        self._unwritten.insert(0, opening)
        self._append([])
        if before is None:
            self.artifact(self.folder.recipe)
            self.params(asdict(recipe) if recipe is not None else {})
        self._worker.start(wait_s=START_WAIT_S)
        if isinstance(self._worker.error, Refused):
            raise self._refusal(self._worker, where)

    def _opening(self, names: dict[str, str | None], tags: Mapping[str, str]) -> Record:
        """The first record of a journal: all that is needed to make the run on the server."""
        status = self.folder.status
        known = {key: names[key] or status[key] for key in ("name", "parent")}
        ours = {RUN_TAG: self.folder.run_id, "basereward.kind": status["kind"]}
        ours["recipe.sha256"] = status["recipe_sha256"]
        all_tags = {**provenance(), **_clean_tags(tags), **ours}
        return {"kind": "start", **names, **known, "tags": all_tags, "time": now_ms()}

    def _refusal(self, worker: Worker, where: str) -> RunError:
        reason = describe(worker.error, limit=REASON_LETTERS) if worker.error else "unknown"
        worker.drain(limit_s=0.0)
        self._worker = None  # nothing more is recorded
        if self.run_id is None:
            self._outbox.forget()
        return RunError(f"MLflow at {where} does not take the run: {reason}.")

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until the server has been reached."""
        return self.folder.mlflow_run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters, nested ones with dotted names, without secrets."""
        flat = {name: redact(value) for name, value in flatten(values).items()}
        self._append([{"kind": "params", "values": flat}] if flat else [])

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags, over those of the same name, without secrets."""
        self._append([{"kind": "tags", "values": _clean_tags(values)}])

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record numbers at a step; a NaN is kept as a NaN."""
        named = [(clean_name(key), float(value)) for key, value in values.items()]
        fresh = [(key, value) for key, value in named if step > self._logged.get(key, step - 1)]
        about = {"kind": "metrics", "step": int(step), "time": now_ms()}
        parts = [fresh[i : i + VALUES_A_RECORD] for i in range(0, len(fresh), VALUES_A_RECORD)]
        self._append({**about, "values": dict(part)} for part in parts)

    def artifact(self, path: Path | str, *, folder: str = "", copy: bool = False) -> None:
        """Record a file, under its name in a folder of the run.

        A file in the run's folder is taken from there when its turn comes; one from elsewhere, and with `copy` any file
        that will change, is copied at once.
        """
        path = Path(path).absolute()
        copied = copy or not path.is_relative_to(self.folder.path)
        try:
            source = self._outbox.keep(path) if copied else path
        except OSError as error:
            log.warning("The file %s is not recorded: %s.", path, describe(error))
            return
        place = source.relative_to(self.folder.path).as_posix()
        self._append([{"kind": "artifact", "path": place, "folder": folder, "copied": copied}])

    def artifacts(self, path: Path | str, *, folder: str = "", copy: bool = False) -> None:
        """Record every file in a folder and its subfolders, under a folder of the run; see `artifact`."""
        root = Path(path)
        for file in sorted(each for each in root.rglob("*") if each.is_file()):
            below = file.parent.relative_to(root).as_posix()
            self.artifact(file, folder="/".join(part for part in (folder, below) if part not in ("", ".")), copy=copy)

    def figure(self, figure: Figure, name: str) -> None:
        """Draw a figure into `figures/NAME.png` of the run folder and record it; a later one replaces it."""
        image = io.BytesIO()
        figure.savefig(image, format="png")
        path = self.folder.figures / f"{name.removesuffix('.png')}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, image.getvalue())
        except OSError as error:
            log.warning("The picture %s is not recorded: %s.", path, describe(error))
            return
        self.artifact(path, folder="figures")

    def close(self, status: Literal["finished", "failed", "killed"]) -> None:
        """Put the end into the record, and wait for nothing; `finish` follows. Only the first call counts.

        It comes before the folder's own state is final: a process that dies in between leaves a run that is over in
        both places, and not one that MLflow shows as running for good.
        """
        if self._worker is not None and not self._closed:
            self._closed = True
            self._append([{"kind": "finish", "status": status.upper(), "time": now_ms()}])

    def finish(
        self, status: Literal["finished", "failed", "killed"] = "finished", *, limit_s: float = FINISH_LIMIT_S
    ) -> bool:
        """End the record and wait until it is delivered, at most `limit_s` without progress; whether all was.

        What is left is kept, and delivered by the next `deliver_pending`. The folder's own state is not touched.
        Without a `start`, nothing happens.
        """
        if self._worker is None:
            return True
        self.close(status)
        self._append([])  # what a full disk did not take before
        delivered = self._worker.drain(limit_s=limit_s) and not self._unwritten
        if not delivered:
            log.warning(
                "MLflow has not got all records of run %s. They are kept in %s; the next `basereward train` or "
                "`basereward sweep` delivers them.",
                self.folder.run_id,
                self._outbox.folder,
            )
        return delivered

    def _append(self, records: Iterable[Record]) -> None:
        """Write records to the outbox; on a full disk keep them in memory and try again with the next ones."""
        with self._lock:
            self._unwritten.extend(records)
            if self._worker is None:
                return
            try:
                self._outbox.append(self._unwritten)
            except OSError as error:
                if not self._told:
                    log.warning("Records of run %s cannot be written now: %s.", self.folder.run_id, describe(error))
                self._told = True
            else:
                self._unwritten.clear()


def check_store(uri: str | None) -> None:
    """Checks the address of the store before anything is done that should be recorded there.

    Raises:
        RunError: MLflow does not take such a store.
    """
    tracking_uri(uri)


def lost_metrics(skipped: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The metrics that tell of lost rows, from their counts by source and reason.

    >>> lost_metrics({"a": {"too_long": 2}, "b": {"too_long": 1, "no_prompt": 1}})
    {'data/skipped/too_long': 3.0, 'data/skipped/no_prompt': 1.0}
    """
    totals: Counter[str] = Counter()
    for reasons in skipped.values():
        totals.update(reasons)
    return {f"data/skipped/{reason}": float(number) for reason, number in totals.items()}


def now_ms() -> int:
    """Milliseconds since 1970, which is how MLflow counts time."""
    return time.time_ns() // 1_000_000


def _clean_tags(values: Mapping[str, str]) -> dict[str, str]:
    return {clean_name(key): redact(str(value)) for key, value in values.items()}


def _last_steps(outbox: RunJournal) -> dict[str, int]:
    """The last recorded step of each metric."""
    steps: dict[str, int] = {}
    position = 0
    while records := outbox.read(position):
        for record, _ in records:
            if record["kind"] == "metrics":
                steps.update(dict.fromkeys(record["values"], record["step"]))
        position = records[-1][1]
    return steps
