"""Local run folders: what a run was told, how it stands, and what it made.

runs/20260314-153012-9f2c41/
├── recipe.yaml     the complete recipe
├── status.json     state, name, parent, the recipe's sha256, and the process that works on it
├── result.json     what `basereward train --json` prints
├── identity.json   hashes of the backbone and of the data that it is trained on
├── checkpoints/    to go on from
├── model/          the trained model
├── figures/        pictures
├── scores/         one JSON Lines file a part of the data
├── evaluations/    what it reached on benchmarks, a folder each
├── lost.jsonl      rows that were not used, each with the reason
└── outbox/         what the tracking server should know
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from basereward.errors import RunError, nearest
from basereward.io.files import json_text, write_atomic
from basereward.io.limits import read_json_object, read_text
from basereward.io.secrets import redact
from basereward.runs.tracking.journal import RunJournal, warn_once
from basereward.runs.process import fate, identify

log = logging.getLogger(__name__)


def _is_time(value: Any) -> bool:
    """Whether it is a number of seconds since 1970, of which JSON can write some that no float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


State: TypeAlias = Literal["running", "finished", "failed", "killed"]
RunKind: TypeAlias = Literal["run", "sweep", "ensemble"]
STATUS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "kind": lambda value: value in get_args(RunKind),
    "parent": lambda value: isinstance(value, str | None),
    "recipe_sha256": lambda value: isinstance(value, str),
    "created": _is_time,
    "state": lambda value: value in get_args(State),
    "axes": lambda value: isinstance(value, dict | None),
    "process": lambda value: isinstance(value, dict | None),
}
"""What `status.json` holds, and which values are right."""
SILENCE_S = 15 * 60
"""A run of another machine counts as killed after so many seconds without a sign of life."""


def runs_root() -> Path:
    """The folder of all runs: $BASEREWARD_RUNS, or `runs` in the working directory."""
    return Path(os.environ.get("BASEREWARD_RUNS") or "runs").absolute()


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, or of one sweep, whose runs name it as their parent."""

    path: Path

    @classmethod
    def create(
        cls,
        recipe_yaml: str,
        *,
        recipe_sha256: str,
        name: str,
        parent: str | None = None,
        kind: RunKind = "run",
        axes: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> RunFolder:
        """Make the folder of a new run, which this process is about to work on. It appears whole or not at all."""
        root = (root or runs_root()).absolute()
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        made = cls(root / f".{run_id}.new")
        made.path.mkdir(parents=True)
        try:
            write_atomic(made.recipe, recipe_yaml)
            facts: dict[str, Any] = {"name": name, "kind": kind, "parent": parent, "recipe_sha256": recipe_sha256}
            facts["axes"] = dict(axes or {})
            made._write({**facts, "created": time.time(), "state": "running", "error": None, "process": identify()})
            for folder in (made.checkpoints, made.scores):
                folder.mkdir()
            made.path.rename(root / run_id)
        except BaseException:
            shutil.rmtree(made.path, ignore_errors=True)
            raise
        return cls(root / run_id)

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    def recipe_text(self) -> str:
        """What recipe.yaml holds; nothing when it cannot be read, which makes it another recipe's."""
        try:
            return read_text(self.recipe, error=RunError)
        except RunError as error:
            warn_once(f"The recipe of run {self.run_id} cannot be read: {error}.")
            return ""

    @property
    def identity(self) -> Path:
        return self.path / "identity.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def scores(self) -> Path:
        return self.path / "scores"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def lost(self) -> Path:
        return self.path / "lost.jsonl"

    @property
    def outbox(self) -> RunJournal:
        return RunJournal(self.path / "outbox")

    @property
    def status(self) -> dict[str, Any]:
        """What status.json holds, as it was written; see `state` for how the run stands.

        Raises:
            RunError: when the file is not there, not readable, or holds something else.
        """
        try:
            status = read_json_object(self.path / "status.json", error=RunError)
        except RunError as error:
            raise RunError(f"{self.path} is not the folder of a run: {error}.") from error
        wrong = [key for key, right in STATUS.items() if not right(status.get(key))]
        if wrong:
            raise RunError(
                f"{self.path} is not the folder of a run: status.json lacks right values of {', '.join(wrong)}."
            )
        return status

    @property
    def name(self) -> str:
        return str(self.status["name"])

    @property
    def axes(self) -> dict[str, str]:
        """Of the run of a sweep's cell the label of every axis by its name; empty for other runs."""
        return dict(self.status.get("axes") or {})

    @property
    def state(self) -> State:
        """How the run stands. One that was running and whose process is gone stands as its record ends, or is `killed`.

        The record gets its end before `status.json` does, so a process may have died in between.
        """
        status = self.status
        state: State = status["state"]
        if state != "running":
            return state
        process = fate(status.get("process") or {})
        silent = time.time() - self._last_sign() > SILENCE_S
        if process == "gone" or (process == "unknown" and silent):
            return self.recorded_end() or "killed"
        return "running"

    def recorded_end(self) -> State | None:
        """How the run ended by its record; None while the record has no end."""
        last = self.outbox.last()
        ends: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
        return ends.get(str(last["status"])) if last is not None and last["kind"] == "finish" else None

    @property
    def mlflow_run_id(self) -> str | None:
        """The run's id on the tracking server, once known."""
        return self.outbox.delivered().run_id

    def mark(self, state: State, *, error: str | None = None) -> None:
        """Write the state; `running` means by this process. `error` says why a run failed."""
        self._write({**self.status, "state": state, "error": error, "process": identify()})

    def give_up(self, state: State, error: BaseException) -> None:
        """Mark a run that ends with an error, on a disk that may take nothing more; nothing is raised for that.

        A run that could not be marked counts as killed when its process is gone. One that is finished stays so, also
        when its record alone says that yet: what fails after that, such as a delivery that is interrupted, does not
        concern it.
        """
        try:
            if self.status["state"] == "finished":
                return
            if self.recorded_end() == "finished":
                self.mark("finished")
            else:
                self.mark(state, error=redact(str(error)) or type(error).__name__)
        except (OSError, RunError) as fault:
            log.warning("The run %s could not be marked as %s: %s.", self.run_id, state, fault)

    def write_result(self, result: dict[str, Any]) -> None:
        """Keep what the run came to; JSON values."""
        write_atomic(self.path / "result.json", json_text(result, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """What `write_result` kept; None when there is nothing yet, or, with a warning, nothing readable."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        try:
            result = read_json_object(file, error=RunError)
        except RunError as error:
            warn_once(f"The result of run {self.run_id} is damaged and left out: {error}.")
            return None
        if isinstance(result.get("metrics"), dict):  # JSON has no NaN: a metric that is none is written as null
            result["metrics"] = {key: math.nan if each is None else each for key, each in result["metrics"].items()}
        return result

    def _write(self, status: dict[str, Any]) -> None:
        write_atomic(self.path / "status.json", json_text(status, indent=2) + "\n")

    def _last_sign(self) -> float:
        files = (self.path / "status.json", self.outbox.journal)
        return max(file.stat().st_mtime for file in files if file.exists())


def list_runs(*, kind: RunKind | None = "run", root: Path | None = None) -> list[RunFolder]:
    """All runs (or sweeps; `None` for all kinds), the newest first. Broken ones are named in a warning, once."""
    found, broken = _scan(root)
    for reason in broken.values():
        warn_once(f"{reason} It is left out.")
    return [run for run, status in found if kind in (None, status["kind"])]


def broken_runs(*, root: Path | None = None) -> dict[str, str]:
    """Folders of runs that cannot be read: the reason by the folder's name."""
    return _scan(root)[1]


def _scan(root: Path | None) -> tuple[list[tuple[RunFolder, dict[str, Any]]], dict[str, str]]:
    """All runs with their status, the newest first, and the broken ones.

    A folder that has a `status.json` or a `recipe.yaml` counts as a run's; others are passed over.
    """
    root = (root or runs_root()).absolute()
    if root.exists() and not root.is_dir():
        raise RunError(f"'{root}' is no folder, and runs are kept in one; move it away, or set BASEREWARD_RUNS")
    found: list[tuple[RunFolder, dict[str, Any]]] = []
    broken: dict[str, str] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        run = RunFolder(path)
        if path.name.startswith(".") or not any(os.path.lexists(file) for file in (path / "status.json", run.recipe)):
            continue
        try:
            found.append((run, run.status))
        except RunError as error:
            broken[path.name] = str(error)
    return sorted(found, key=lambda item: float(item[1]["created"]), reverse=True), broken


def find(run_id: str, *, root: Path | None = None) -> RunFolder:
    """The folder of a run, by its own id or by the one that MLflow gave it.

    Raises:
        RunError: when there is none; it names the nearest id and the recent ones.
    """
    root = (root or runs_root()).absolute()
    if run_id and (root / run_id / "status.json").is_file() and Path(run_id).name == run_id:
        return RunFolder(root / run_id)
    runs = list_runs(kind=None, root=root)
    for run in runs:
        if run.mlflow_run_id == run_id:
            return run
    close = nearest(run_id, [run.run_id for run in runs])
    hint = f" Did you mean '{close}'?" if close else ""
    recent = ", ".join(f"{run.run_id} ({run.name})" for run in runs[:5]) or "none"
    raise RunError(f"There is no run '{run_id}' in {root}.{hint} Recent runs: {recent}. All: basereward ls runs.")


def finished_with(recipe_sha256: str, *, kind: RunKind = "run", root: Path | None = None) -> RunFolder | None:
    """The newest finished run (or ensemble) of this recipe, which a sweep need not make again."""
    return _newest(recipe_sha256, {"finished"}, root, kind=kind)


def unfinished_with(recipe_sha256: str, *, root: Path | None = None) -> RunFolder | None:
    """The newest run of this recipe that was killed or failed."""
    return _newest(recipe_sha256, {"killed", "failed"}, root)


def resumable_with(recipe_sha256: str, *, root: Path | None = None) -> RunFolder | None:
    """The newest run of this recipe that was killed or failed and has a checkpoint, which a sweep goes on with."""
    return _newest(recipe_sha256, {"killed", "failed"}, root, with_checkpoint=True)


def running_with(recipe_sha256: str, *, root: Path | None = None) -> RunFolder | None:
    """The newest run of this recipe that a process works on, and that a sweep began."""
    run = _newest(recipe_sha256, {"running"}, root)
    return run if run is not None and run.status["parent"] is not None else None


def _newest(
    recipe_sha256: str, states: set[State], root: Path | None, *, kind: RunKind = "run", with_checkpoint: bool = False
) -> RunFolder | None:
    for run in list_runs(kind=kind, root=root):
        if with_checkpoint and not (run.checkpoints / "last.ckpt").exists():
            continue
        with contextlib.suppress(RunError):  # removed by somebody since it was listed
            if run.status["recipe_sha256"] == recipe_sha256 and run.state in states:
                return run
    return None
