"""Runs the cells of a grid and makes their ensembles. Sweeps of one grid at the same time share its cells."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from basereward.errors import RecipeError
from basereward.io.processes import remove_leftovers
from basereward.io.progress import phase
from basereward.recipe import Cell, Experiment
from basereward.runs.locks import lock_earlier, lock_run, unlock_run
from basereward.runs.params import AXIS
from basereward.runs.run_folder import RunFolder, resume_command, runs_root
from basereward.runs.tracking.mlflow_store import NOTE_TAG
from basereward.runs.tracking.tracker import Tracker, check_store, check_store_of_machines, deliver_pending
from basereward.sweeps.comparison import compare_cells
from basereward.sweeps.ensembles import make_ensembles
from basereward.sweeps.launcher import Launcher, make_launcher
from basereward.sweeps.saved_sweep import save_sweep, sweep_grid
from basereward.sweeps.scheduling.resources import describe_plan, needed_resources, with_devices
from basereward.sweeps.scheduling.scheduler import run_cells
from basereward.sweeps.sweep_record import describe_sweep, record_results
from basereward.training.preflight import Findings, check_cells, check_ready, unfinished

logger = logging.getLogger(__name__)


def sweep(
    experiment: Experiment,
    *,
    launcher: Launcher | None = None,
    quick: Findings | None = None,
    asked: RunFolder | None = None,
) -> dict[str, Any]:
    """Run every cell that is not finished, then make the ensembles.

    A failed cell is reported and does not stop the others. An interrupted cell resumes from its last checkpoint. Cells
    that another process trains come last; this call waits for them.

    Args:
        experiment: with its cells and ensembles.
        launcher: trains the cells; by default that of the first cell's recipe, or processes of this machine. Ensembles
            are always made on this machine.
        quick: what `check_quickly` has found for the unfinished cells; None: their first rows are read here.
        asked: the folder of the sweep that is resumed; None: the newest one of the same cells, or a new one.

    Raises:
        BaseRewardError: a cell cannot be trained here; nothing was trained.

    Returns:
        `sweep_id`; `cells`, a `summary_row` of each; `ensembles`, the same; `comparisons` of the best recipe with every
        other one, see `compare`; `differences`, sentences about them.
    """
    if experiment.stages:
        raise RecipeError(f"experiment '{experiment.name}' has stages and no cells; run it by `basereward train`")
    check_store(experiment.cells[0].recipe.tracking.uri)
    launcher = launcher or make_launcher(experiment.cells[0].recipe.launcher)
    to_train = unfinished(experiment.cells)
    held = _check(to_train, launcher, quick=quick).held
    to_train = with_devices(to_train, held, launcher)
    with contextlib.closing(launcher):
        for line in describe_plan(to_train, held, launcher):
            logger.info("%s", line)
        # First, so that a cluster that lacks what the cells need is refused before anything is written. And a worker
        # imports torch while the tracker opens its database.
        if to_train:
            launcher.prepare([needed_resources(cell.recipe) for cell in to_train])
        if launcher.spans_machines:
            check_store_of_machines(experiment.cells[0].recipe.tracking.uri)
        deliver_pending()
        remove_leftovers(runs_root(), ".*.new")
        folder = _sweep_folder(experiment, asked)
        try:
            return _sweep(experiment, folder, launcher, chosen=to_train)
        finally:
            unlock_run(folder)


def _sweep(experiment: Experiment, folder: RunFolder, launcher: Launcher, *, chosen: Sequence[Cell]) -> dict[str, Any]:
    """Run the cells in the folder of a sweep. `chosen` are those to train, with their devices."""
    cells, name = experiment.cells, experiment.name
    by_name = {cell.name: cell for cell in chosen}
    to_run = [by_name.get(cell.name, cell) for cell in cells]
    tracking = cells[0].recipe.tracking
    tracker = Tracker(folder)
    try:
        save_sweep(folder, experiment, launcher)
        with phase("opening MLflow"):
            tracker.start(
                uri=tracking.uri,
                experiment=tracking.experiment or name,
                name=name,
                tags={NOTE_TAG: describe_sweep(name, summary=experiment.summary, cells=len(cells))},
                axes=[f"{AXIS}.{axis}" for axis in cells[0].axes],
                summary=experiment.summary,
            )
        results = run_cells(to_run, launcher=launcher, sweep_id=folder.run_id)
        # The workers of the cells may hold a GPU's memory, which the ensembles need.
        launcher.close()
        ensembles = make_ensembles(experiment, results, sweep_id=folder.run_id)
    except BaseException as error:
        launcher.cancel()
        _abandon(folder, tracker, error)
        error.add_note(
            f"the sweep is {folder.run_id}; continue it, without its finished cells: {resume_command(folder)}"
        )
        raise
    return _finish(folder, tracker, cells=cells, results=results, ensembles=ensembles)


def _check(cells: Sequence[Cell], launcher: Launcher, *, quick: Findings | None) -> Findings:
    """Check the cells, and the devices of this machine where they run on it; see `check_cells`."""
    # Where the number of GPUs follows from the memory of a cell, one GPU need not hold it.
    is_compared = launcher.runs_here and launcher.gpu_memory is None
    if launcher.runs_here and not is_compared:
        for cell in cells:
            check_ready(cell.recipe)
    return check_cells(cells, quick=quick, here=is_compared)


def _finish(
    folder: RunFolder,
    tracker: Tracker,
    *,
    cells: Sequence[Cell],
    results: list[dict[str, Any]],
    ensembles: list[dict[str, Any]],
) -> dict[str, Any]:
    """Compare the cells, and close the record of a sweep that has run all of them."""
    has_failures = any(row["status"] == "failed" for row in [*results, *ensembles])
    state: Literal["failed", "finished"] = "failed" if has_failures else "finished"
    compared = compare_cells(cells, results, ensembles=ensembles)
    result = {
        "sweep_id": folder.run_id,
        "cells": results,
        "ensembles": ensembles,
        "comparisons": [asdict(comparison) for comparison in compared.comparisons],
        "differences": [*filter(None, [compared.measure]), *compared.words],
    }
    folder.write_result(result)
    record_results(tracker, folder, cells=cells, rows=[*results, *ensembles])
    tracker.close(state)
    folder.mark(state)
    tracker.finish(state)
    return result


def _abandon(folder: RunFolder, tracker: Tracker, error: BaseException) -> None:
    """Close the record of a sweep that ends with an error."""
    state: Literal["failed", "killed"] = "failed" if isinstance(error, Exception) else "killed"
    tracker.close(state)
    folder.give_up(state, error)
    tracker.finish(state)


def _sweep_folder(experiment: Experiment, asked: RunFolder | None = None) -> RunFolder:
    """The folder of the sweep. An earlier sweep of the same cells is reused, so that its runs keep their parent."""
    name = experiment.name
    grid = sweep_grid(experiment)
    earlier = lock_earlier(kind="sweep", name=name, text=grid, asked=asked)
    if earlier is not None:
        return earlier
    # Settings of tracking decide on no recipe, and an address may hold a password.
    overrides = [override for override in experiment.overrides if not override.startswith("tracking")]
    settings = {"profile": experiment.profile, "overrides": overrides}
    folder = RunFolder.create(grid, recipe_sha256="", name=name, kind="sweep", settings=settings)
    lock_run(folder)
    return folder
