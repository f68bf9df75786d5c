"""Local run folders: what a run was started with, its state, and its results.

runs/20260314-153012-9f2c41/
├── recipe.yaml     the complete recipe
├── status.json     state, name, parent, the recipe's sha256, and the process that works on the run
├── result.json     what `basereward train --json` prints
├── identity.json   hashes of the backbone and of the training data
├── checkpoints/    from which the run can resume
├── model/          the trained model
├── figures/        plots, as PNG files
├── scores/         the scores of each split, as JSON Lines files
├── evaluations/    the results of benchmarks, one folder each
├── outputs/        of a stage of a pipeline: the files that it makes
├── lost.jsonl      rows that were not used, each with the reason
├── lease/          the process that works on the run, for other machines; see `basereward.io.lease`
└── outbox/         the journal of records for the tracking server; see `basereward.runs.tracking`
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from basereward.errors import RunError, nearest, sentence
from basereward.io.files import is_special, json_text, set_aside, write_atomic, write_state
from basereward.io.lease import shared_holder
from basereward.io.limits import read_json_object, read_text
from basereward.io.processes import identify_process, process_state, temporary_name
from basereward.io.secrets import redact
from basereward.recipe import Recipe, recipe_from_yaml, recipe_sha256
from basereward.recipe.trust import is_trusted
from basereward.runs.tracking.journal import RunJournal, warn_once

log = logging.getLogger(__name__)


def resume_command(run: RunFolder) -> str:
    """The command that continues a stopped run or sweep.

    >>> resume_command(RunFolder(Path("runs/20260314-153012-9f2c41")))
    'basereward resume 20260314-153012-9f2c41'
    """
    return f"basereward resume {run.run_id}" + (" --trust" if is_trusted() else "")


def _is_time(value: Any) -> bool:
    """Whether a value is a number of seconds since 1970. JSON can hold integers that overflow a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


State: TypeAlias = Literal["running", "finished", "failed", "killed"]
RunKind: TypeAlias = Literal["run", "sweep", "ensemble", "pipeline", "stage"]
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
"""The required fields of `status.json`, with a check of their values."""
STATE_FILES = ("result.json", "sweep.json", "cells.json", "pipeline.json")
"""Further files of a run, a sweep or a pipeline, which other packages write."""
SILENCE_S = 15 * 60
"""Seconds without a written record after which a run of another machine without a lease counts as killed.

Runs of earlier versions and of a user's own `trainer.fit` have no lease, and their process cannot be looked up from
here. A validation, the longest silence of a live run, takes minutes.
"""


def runs_root() -> Path:
    """The folder of all runs: $BASEREWARD_RUNS, or `runs` in the working directory.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, {"BASEREWARD_RUNS": "/data/runs"}):
    ...     runs_root().as_posix()
    '/data/runs'
    """
    return Path(os.environ.get("BASEREWARD_RUNS") or "runs").absolute()


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, or of one sweep or pipeline, whose runs name it as their parent.

    Args:
        path: of the folder.

    >>> import tempfile
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=Path(tempfile.mkdtemp()))
    >>> run.name, run.state
    ('a', 'running')
    """

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
        settings: Mapping[str, Any] | None = None,
        experiment: str | None = None,
        root: Path | None = None,
    ) -> RunFolder:
        """Create the folder of a new run of this process; see `begin` for the arguments.

        Args:
            root: folder of all runs.
        """
        run = cls.reserve(root=root)
        run.begin(
            recipe_yaml,
            recipe_sha256=recipe_sha256,
            name=name,
            parent=parent,
            kind=kind,
            axes=axes,
            settings=settings,
            experiment=experiment,
        )
        return run

    @classmethod
    def reserve(cls, *, root: Path | None = None) -> RunFolder:
        """Choose the folder of a new run. Nothing is created before `begin`.

        Args:
            root: folder of all runs.

        >>> RunFolder.reserve(root=Path("somewhere")).exists
        False
        """
        # The time sorts runs by their creation; the random part keeps runs of the same second apart.
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        return cls((root or runs_root()).absolute() / run_id)

    def begin(
        self,
        recipe_yaml: str,
        *,
        recipe_sha256: str,
        name: str,
        parent: str | None = None,
        kind: RunKind = "run",
        axes: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        experiment: str | None = None,
    ) -> None:
        """Create the folder of a new run of this process. It appears whole or not at all.

        Args:
            recipe_yaml: content of recipe.yaml.
            recipe_sha256: hash by which a sweep finds the run again.
            name: display name.
            parent: id of the sweep or pipeline that the run belongs to.
            kind: of what the folder is.
            axes: label of each axis of a sweep's cell, by the name of the axis; `stage` of a pipeline.
            settings: `profile` and `overrides` of a sweep or pipeline.
            experiment: name of the experiment; None: the display name.
        """
        # A folder under its final name would be listed, and taken for a broken run, before its files are written.
        temporary = RunFolder(self.path.parent / temporary_name(self.run_id, ".new"))
        temporary.path.mkdir(parents=True)
        status: dict[str, Any] = {"name": name, "kind": kind, "parent": parent, "recipe_sha256": recipe_sha256}
        now = time.time()
        status |= {"axes": dict(axes or {}), "settings": dict(settings or {}), "created": now}
        status["experiment"] = experiment or name
        # What `basereward resume` needs besides the recipe: relative paths of the recipe start from the folder.
        status |= {"folder": os.getcwd(), "trust": is_trusted(), "started": now, "seconds": 0.0}
        status |= {"state": "running", "error": None, "process": identify_process()}
        try:
            write_atomic(temporary.recipe, recipe_yaml)
            temporary._write_status(status)
            for folder in (temporary.checkpoints, temporary.scores):
                folder.mkdir()
            temporary.path.rename(self.path)
        except BaseException:
            shutil.rmtree(temporary.path, ignore_errors=True)
            raise

    @property
    def exists(self) -> bool:
        """Whether the run has begun; false for a reserved folder."""
        return self.path.exists()

    @property
    def run_id(self) -> str:
        """The id of the run, which is the name of its folder."""
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The file with the complete recipe."""
        return self.path / "recipe.yaml"

    def recipe_text(self) -> str:
        """The content of recipe.yaml; '' when it cannot be read, so that it equals no recipe."""
        try:
            return read_text(self.recipe, error=RunError)
        except RunError as error:
            warn_once(f"The recipe of run {self.run_id} cannot be read: {sentence(error)}")
            return ""

    def read_recipe(self) -> Recipe:
        """Read recipe.yaml, and check that it is what the run was started with.

        Raises:
            RunError: the recipe was edited after the start; a run that goes on with another one could not be repeated.
            RecipeError: the file is missing, or is not a complete recipe.

        >>> import tempfile
        >>> from basereward.recipe import load_recipe, recipe_yaml
        >>> recipe, root = load_recipe("basereward"), Path(tempfile.mkdtemp())
        >>> run = RunFolder.create(recipe_yaml(recipe), recipe_sha256=recipe_sha256(recipe), name="a", root=root)
        >>> run.read_recipe() == recipe
        True
        """
        recipe = recipe_from_yaml(self.recipe)
        if recipe_sha256(recipe) != self.status["recipe_sha256"]:
            raise RunError(
                f"'{self.recipe}' was edited after run '{self.run_id}' was started, and a run resumes only with the "
                "recipe that it began with. Put the file back as it was; to train with other values, start a new run "
                "with `basereward train`"
            )
        return recipe

    @property
    def identity(self) -> Path:
        """The file with the hashes of the backbone and of the training data."""
        return self.path / "identity.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints from which the run can resume."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def figures(self) -> Path:
        """The folder of plots."""
        return self.path / "figures"

    @property
    def scores(self) -> Path:
        """The folder of the scores of each split."""
        return self.path / "scores"

    @property
    def evaluations(self) -> Path:
        """The folder of the results of benchmarks, one folder each."""
        return self.path / "evaluations"

    @property
    def lease(self) -> Path:
        """The folder of the lease of the process that works on the run."""
        return self.path / "lease"

    @property
    def rejections(self) -> Path:
        """The file of rejected rows, each with the reason."""
        return self.path / "lost.jsonl"

    @property
    def journal(self) -> RunJournal:
        """The journal of records for the tracking server. Every access makes a new object without the lock."""
        return RunJournal(self.path / "outbox")

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json as it was written; `state` also looks at the process of the run.

        Raises:
            RunError: the file is missing, unreadable, or not the status of a run.
        """
        try:
            status = read_json_object(self.path / "status.json", error=RunError)
        except RunError as error:
            raise RunError(f"{self.path} is not the folder of a run: {sentence(error)}") from error
        invalid = [key for key, is_valid in STATUS.items() if not is_valid(status.get(key))]
        if invalid:
            raise RunError(
                f"{self.path} is not the folder of a run: status.json lacks valid values of {', '.join(invalid)}."
            )
        return status

    @property
    def name(self) -> str:
        """The display name of the run; names may repeat, ids do not."""
        return str(self.status["name"])

    @property
    def axes(self) -> dict[str, str]:
        """Label of each axis of a sweep's cell, by the name of the axis; empty for other runs."""
        return dict(self.status.get("axes") or {})

    @property
    def settings(self) -> dict[str, Any]:
        """`profile` and `overrides` of a sweep; empty for runs, and for sweeps of earlier versions."""
        settings = self.status.get("settings")
        return dict(settings) if isinstance(settings, dict) else {}

    @property
    def state(self) -> State:
        """The state of the run.

        A running run whose process is gone has the state with which its journal ends, or is `killed`: the journal gets
        its end before `status.json` does, so a process can die in between.
        """
        return self.state_in(self.status)

    def state_in(self, status: Mapping[str, Any]) -> State:
        """The state of the run by a `status` that was read before: a list of many runs reads each file once."""
        state: State = status["state"]
        if state != "running":
            return state
        return "running" if self._is_worked_on(status.get("process") or {}) else self.recorded_end() or "killed"

    def _is_worked_on(self, process: Mapping[str, Any]) -> bool:
        """Whether the process that has marked the run as running still works on it."""
        holder = shared_holder(self.lease)
        if holder is not None and all(holder.process.get(key) == value for key, value in process.items()):
            return holder.is_live
        state = process_state(process)
        if state != "unknown":
            return state == "alive"
        # The process cannot be looked up here. If the run ever had a lease, its process has released or lost it.
        if self.lease.is_dir():
            return False
        return time.time() - self._last_write_time() <= SILENCE_S

    def recorded_end(self) -> State | None:
        """The state with which the journal ends; None while it has no end."""
        last = self.journal.last()
        ends: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
        return ends.get(str(last["status"])) if last is not None and last["kind"] == "finish" else None

    @property
    def mlflow_run_id(self) -> str | None:
        """The id of the run on the tracking server; None until the server was reached."""
        return self.journal.delivered().run_id

    def mark(self, state: State, *, error: str | None = None, error_type: str | None = None) -> None:
        """Write the state to status.json, with this process as the one that works on the run.

        Args:
            state: the new state.
            error: why the run failed.
            error_type: class of that error.
        """
        now = {
            "state": state,
            "error": error,
            "error_type": error_type,
            "process": identify_process(),
            "started": time.time(),
        }
        self._write_status({**self.status, **now, "seconds": self.seconds})

    def record_place(self, place: Mapping[str, Any]) -> None:
        """Write where the run is trained, and how far it is to go, to status.json.

        Args:
            place: JSON values; see `basereward.runs.activity`.
        """
        self._write_status({**self.status, "place": dict(place)})

    @property
    def seconds(self) -> float | None:
        """Seconds of work on the run, without pauses before it was resumed; None for a run of an earlier version."""
        status = self.status
        return self.seconds_in(status, state=self.state_in(status))

    def seconds_in(self, status: Mapping[str, Any], *, state: State) -> float | None:
        """The same by a `status` and a `state` that were read before."""
        seconds, started = status.get("seconds"), status.get("started")
        if seconds is None or started is None or not _is_time(seconds) or not _is_time(started):
            return None
        if status["state"] != "running":
            return float(seconds)
        # The process of a run that was killed cannot have written its end.
        end = time.time() if state == "running" else self._last_write_time()
        return float(seconds) + max(float(end) - float(started), 0.0)

    def give_up(self, state: State, error: BaseException) -> None:
        """Mark a run that ends with an error. Raises nothing, because the disk may be full.

        A run that could not be marked counts as killed when its process is gone. A finished run stays finished, also
        when only its journal says so yet: a later failure, such as an interrupted upload, does not change its result.
        """
        try:
            if self.status["state"] == "finished":
                return
            if self.recorded_end() == "finished":
                self.mark("finished")
            else:
                kind = type(error).__name__
                self.mark(state, error=redact(str(error)) or kind, error_type=kind)
        except (OSError, RunError) as fault:
            log.warning("The run %s could not be marked as %s: %s.", self.run_id, state, fault)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json.

        Args:
            result: JSON values.
        """
        write_state(self.path / "result.json", json_text(result, indent=2) + "\n")

    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None when it does not exist, or, with a warning, is damaged."""
        file = self.path / "result.json"
        if not file.exists():
            return None
        try:
            result = read_json_object(file, error=RunError)
        except RunError as error:
            warn_once(f"The result of run {self.run_id} is damaged and left out: {sentence(error)}")
            return None
        metrics = result.get("metrics")
        # JSON has no NaN, so `write_result` writes null for it.
        if isinstance(metrics, dict):
            result["metrics"] = {name: math.nan if value is None else value for name, value in metrics.items()}
        return result

    def set_aside_obstacles(self) -> None:
        """Rename what is no file in the place of a file, and no folder in the place of a folder, of a begun run.

        The holder of the run's lock calls it before anything is read or written that could wait for a pipe.
        """
        if not self.exists:
            return
        folders = (self.checkpoints, self.figures, self.scores, self.evaluations)
        for folder in folders:
            set_aside(folder, is_folder=True)
        for file in (self.identity, self.rejections, *(self.path / name for name in STATE_FILES)):
            set_aside(file)
        for folder in (self.checkpoints, self.scores):
            folder.mkdir(exist_ok=True)
            # Not the folders in it: a checkpoint may be one.
            for path in filter(is_special, list(folder.iterdir())):
                set_aside(path)

    def _write_status(self, status: dict[str, Any]) -> None:
        write_state(self.path / "status.json", json_text(status, indent=2) + "\n")

    def _last_write_time(self) -> float:
        """Seconds since 1970 at which the run last wrote its status or a record."""
        files = (self.path / "status.json", self.journal.file)
        # Another process may delete the run.
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def list_runs(*, kind: RunKind | None = "run", root: Path | None = None) -> list[RunFolder]:
    """List runs, the newest first. Broken folders are skipped, with one warning each.

    Args:
        kind: of what; None for all kinds.
        root: folder of all runs.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> [run.name for run in list_runs(root=root)]
    ['a']
    """
    runs, broken = scan_runs(root)
    for reason in broken.values():
        warn_once(f"{reason} It is left out.")
    return [run for run, status in runs if kind in (None, status["kind"])]


def scan_runs(root: Path | None) -> tuple[list[tuple[RunFolder, dict[str, Any]]], dict[str, str]]:
    """All runs with their status, the newest first; and the broken folders.

    A folder with a `status.json` or a `recipe.yaml` counts as a run; other folders are skipped.

    Args:
        root: folder of all runs.

    >>> scan_runs(Path("/not/there"))
    ([], {})
    """
    root = (root or runs_root()).absolute()
    if root.exists() and not root.is_dir():
        raise RunError(f"'{root}' is not a folder, and runs are stored in one; move it away, or set BASEREWARD_RUNS")
    runs: list[tuple[RunFolder, dict[str, Any]]] = []
    broken: dict[str, str] = {}
    # Sorted, so that runs that were created in the same second keep one order.
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        run = RunFolder(path)
        # `lexists`: a dangling link is a broken run, not a foreign folder.
        is_run = os.path.lexists(path / "status.json") or os.path.lexists(run.recipe)
        if path.name.startswith(".") or not is_run:
            continue
        try:
            runs.append((run, run.status))
        except RunError as error:
            broken[path.name] = str(error)
    return sorted(runs, key=lambda item: float(item[1]["created"]), reverse=True), broken


def find(run_id: str, *, root: Path | None = None) -> RunFolder:
    """Find the folder of a run by its own id, or by its id in MLflow.

    Raises:
        RunError: there is no such run; the message names the nearest id and recent ones.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> find(run.run_id, root=root) == run
    True
    """
    root = (root or runs_root()).absolute()
    # An id is the name of a folder: `../other` must not lead out of the folder of runs.
    if run_id and (root / run_id / "status.json").is_file() and Path(run_id).name == run_id:
        return RunFolder(root / run_id)
    runs = list_runs(kind=None, root=root)
    for run in runs:
        if run.mlflow_run_id == run_id:
            return run
    raise _no_such_run(run_id, runs, root=root)


def _no_such_run(run_id: str, runs: Sequence[RunFolder], *, root: Path) -> RunError:
    close = nearest(run_id, [run.run_id for run in runs])
    hint = f" Did you mean '{close}'?" if close else ""
    recent = ", ".join(f"{run.run_id} ({run.name})" for run in runs[:5]) or "none"
    return RunError(f"There is no run '{run_id}' in {root}.{hint} Recent runs: {recent}. All: basereward ls runs.")


def finished_with(
    recipe_sha256: str,
    *,
    kind: RunKind = "run",
    root: Path | None = None,
    runs: Sequence[RunFolder] | None = None,
) -> RunFolder | None:
    """The newest finished run (or ensemble) of a recipe, which a sweep does not repeat; or that of a stage.

    Args:
        recipe_sha256: hash of the recipe.
        kind: of what.
        root: folder of all runs.
        runs: among which it is searched, the newest first; None: all runs in the folder.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> run.mark("finished")
    >>> finished_with("0", root=root) == run
    True
    """
    return _newest(recipe_sha256, {"finished"}, root, kind=kind, runs=runs)


def unfinished_with(recipe_sha256: str, *, kind: RunKind = "run", root: Path | None = None) -> RunFolder | None:
    """The newest run of a recipe, or of a stage of a pipeline, that was killed or failed.

    Args:
        recipe_sha256: hash of the recipe or the stage.
        kind: of what.
        root: folder of all runs.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> run.mark("failed", error="out of memory")
    >>> unfinished_with("0", root=root) == run
    True
    """
    return _newest(recipe_sha256, {"killed", "failed"}, root, kind=kind)


def resumable_with(
    recipe_sha256: str, *, root: Path | None = None, runs: Sequence[RunFolder] | None = None
) -> RunFolder | None:
    """The newest killed or failed run of a recipe that has a checkpoint, from which a sweep resumes it.

    Args: as of `finished_with`.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> run.mark("failed", error="out of memory")
    >>> resumable_with("0", root=root) is None  # there is no checkpoint
    True
    """
    return _newest(recipe_sha256, {"killed", "failed"}, root, with_checkpoint=True, runs=runs)


def _newest(
    recipe_sha256: str,
    states: set[State],
    root: Path | None,
    *,
    kind: RunKind = "run",
    with_checkpoint: bool = False,
    runs: Sequence[RunFolder] | None = None,
) -> RunFolder | None:
    for run in list_runs(kind=kind, root=root) if runs is None else runs:
        checkpoint = run.checkpoints / "last.ckpt"
        if with_checkpoint and (is_special(checkpoint) or not checkpoint.exists()):
            continue
        # Another process may delete the run after it was listed.
        with contextlib.suppress(RunError):
            if run.status["recipe_sha256"] == recipe_sha256 and run.state in states:
                return run
    return None
