"""Continues a stopped run or sweep from its folder alone."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.errors import RecipeError, RunError
from basereward.io.progress import announce, phase
from basereward.recipe.checks.ranges import range_problems
from basereward.recipe.trust import is_trusted
from basereward.rl.train import trainer_of
from basereward.runs.run_folder import RunFolder, find, runs_root
from basereward.sweeps.launcher import make_launcher
from basereward.sweeps.saved_sweep import has_saved_sweep, load_sweep

if TYPE_CHECKING:
    from basereward.recipe import Experiment

RUNS_FOLDER = "runs"
"""Name of the folder of runs in a working folder, where $BASEREWARD_RUNS does not name another one."""


def resume(
    name: str,
    *,
    folder: str | None = None,
    devices: int | None = None,
    continue_pipeline: Callable[[RunFolder], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Continue a stopped run from its last checkpoint, or a sweep with its unfinished cells.

    Everything comes from the folder of the run: the complete recipe, and the working folder, from which relative paths
    of the recipe start.

    Args:
        name: id of the run or sweep, or the path of its folder.
        folder: working folder; None: that of the start.
        devices: number of devices of a run; None: that of the start. A sweep keeps those of its cells.
        continue_pipeline: continues a pipeline from its folder; that is above this package.

    Returns:
        `kind`, `run`, `sweep` or `pipeline`, and the result of `train`, `sweep` or `run_pipeline`.

    Raises:
        RunError: there is no such run; it is finished, still running, or an ensemble; it was started with options that
            are not given now; or its working folder does not exist.

    >>> resume("no-such-run")
    Traceback (most recent call last):
    basereward.errors.RunError: There is no run 'no-such-run' in ...
    """
    run = _find(name)
    _check_resumable(run, name)
    with _in_working_folder(run, folder), _named_as_given(run, name):
        if run.status["kind"] == "sweep":
            return {"kind": "sweep", **_resume_sweep(run)}
        if run.status["kind"] == "pipeline":
            if continue_pipeline is None:
                raise RunError(f"'{name}' is a pipeline; continue it by `basereward resume {run.run_id}`")
            return {"kind": "pipeline", **continue_pipeline(run)}
        return {"kind": "run", **_resume_run(run, devices=devices)}


def _find(name: str) -> RunFolder:
    path = Path(name)
    # A path works from any folder; an id only where the runs are.
    if os.sep in name or (path / "status.json").is_file():
        run = RunFolder(path.absolute())
        _ = run.status
        return run
    return find(name)


def _check_resumable(run: RunFolder, name: str) -> None:
    status, state = run.status, run.state
    kind = status["kind"]
    if kind == "ensemble":
        raise RunError(
            f"'{name}' is an ensemble, which is made in one step. Make it again with `basereward ensemble`, or with "
            "the sweep that it belongs to"
        )
    if kind == "stage":
        raise RunError(f"'{name}' is a stage of a pipeline, which continues it: basereward resume {status['parent']}")
    if state == "finished":
        use = {
            "run": f"basereward score {run.run_id} FILE",
            "sweep": f"basereward report {run.name}",
            "pipeline": f"basereward ls runs --experiment {run.name}",
        }[kind]
        raise RunError(f"{kind} '{name}' is finished; there is nothing to continue. To use it: {use}")
    if state == "running":
        raise RunError(f"{kind} '{name}' is still running; stop it before you resume it")
    if status.get("trust") and not is_trusted():
        raise RunError(
            f"{kind} '{name}' was started with --trust, and may run code from outside this package. Allow it again: "
            f"basereward resume {shlex.quote(name)} --trust"
        )
    if kind == "sweep" and not has_saved_sweep(run):
        raise RunError(
            f"sweep '{name}' was started by an earlier version, which did not keep its cells. Give the same command "
            f"again, as in `basereward sweep {run.name}`; it skips finished cells"
        )


@contextlib.contextmanager
def _in_working_folder(run: RunFolder, folder: str | None) -> Iterator[None]:
    """Work in the folder in which the run was started, on the folder of runs that has the run."""
    target = Path(folder).absolute() if folder is not None else _working_folder(run)
    if not target.is_dir():
        raise RunError(
            f"run '{run.run_id}' was started in the folder '{target}', which does not exist, and relative paths of its "
            "recipe start there. Give the folder that replaces it with --folder"
        )
    root = run.path.parent
    if target != Path.cwd():
        announce(f"working folder: {target}")
    # For this process and those of the cells of a sweep.
    before = os.environ.get("BASEREWARD_RUNS")
    try:
        with contextlib.chdir(target):
            if runs_root() != root:
                os.environ["BASEREWARD_RUNS"] = str(root)
            if is_trusted():
                # A user's own classes are often in the working folder.
                sys.path.append(str(target))
            yield
    finally:
        if before is None:
            os.environ.pop("BASEREWARD_RUNS", None)
        else:
            os.environ["BASEREWARD_RUNS"] = before


def _working_folder(run: RunFolder) -> Path:
    """The working folder of the start; the present one for a run of an earlier version."""
    recorded = run.status.get("folder")
    if not isinstance(recorded, str):
        return Path.cwd()
    # A project that was moved as a whole has its runs in the moved folder.
    root = run.path.parent
    if not Path(recorded).is_dir() and root.name == RUNS_FOLDER:
        return root.parent
    return Path(recorded)


@contextlib.contextmanager
def _named_as_given(run: RunFolder, name: str) -> Iterator[None]:
    """After an interruption, show the command with the path that was given: an id is not found from other folders."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if name != run.run_id:
            trust = " --trust" if is_trusted() else ""
            stop.__notes__ = [f"the run is {run.run_id}; continue it: basereward resume {shlex.quote(name)}{trust}"]
        raise


def _resume_run(run: RunFolder, *, devices: int | None) -> dict[str, Any]:
    recipe = run.read_recipe()
    if devices is not None:
        # On one machine, whatever the run was begun on.
        recipe = replace(recipe, trainer=replace(recipe.trainer, devices=devices, nodes=1))
        if faults := range_problems(recipe):
            raise RecipeError("\n  ".join(f"{key}: {message}" for key, message in faults), faults)
    with phase("loading PyTorch and transformers"):
        train = trainer_of(recipe)
    return train(recipe, resume=run.run_id)


def _resume_sweep(run: RunFolder) -> dict[str, Any]:
    experiment: Experiment
    experiment, launcher = load_sweep(run)
    from basereward.sweeps.sweep import sweep

    return sweep(experiment, launcher=make_launcher(launcher), asked=run)
