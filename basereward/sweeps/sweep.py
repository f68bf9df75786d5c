"""Runs the cells of a grid one after another. Sweeps of one grid at the same time share its cells."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from basereward.errors import RunError
from basereward.io.processes import remove_leftovers
from basereward.recipe import Cell, Experiment, recipe_sha256
from basereward.runs.locks import cell_lock, lock_run, unlock_run
from basereward.runs.run_folder import (
    RunFolder,
    finished_with,
    list_runs,
    resumable_with,
    running_with,
    runs_root,
    unfinished_with,
)
from basereward.runs.tracking.tracker import Tracker, check_store, deliver_pending
from basereward.sweeps.cell_processes import CellProcesses
from basereward.sweeps.comparison import compare_cells
from basereward.sweeps.ensembles import make_ensembles
from basereward.sweeps.results import summary_row

logger = logging.getLogger(__name__)

END_LIMIT_S = 15.0
"""Seconds that the process of a cell has to end after its sweep was killed; it looks twice a second."""


def sweep(experiment: Experiment) -> dict[str, Any]:
    """Run every cell that is not finished, then make the ensembles.

    A failed cell is reported and does not stop the others. A stopped cell resumes from its last checkpoint. Cells that
    another process trains come last; this call waits for them.

    Args:
        experiment: with its cells and ensembles.

    Returns:
        `sweep_id`; `cells`, a `summary_row` of each; `ensembles`, the same; `comparisons` of the best recipe with every
        other one, see `compare`; `differences`, sentences about them.
    """
    check_store(experiment.cells[0].recipe.tracking.uri)
    deliver_pending()
    remove_leftovers(runs_root(), ".*.new")
    folder = _sweep_folder(experiment.cells, name=experiment.name)
    try:
        return _sweep(experiment, folder)
    finally:
        unlock_run(folder)


def _sweep(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    cells, name = experiment.cells, experiment.name
    tracking = cells[0].recipe.tracking
    tracker = Tracker(folder)
    with contextlib.closing(CellProcesses()) as processes:
        if any(finished_with(recipe_sha256(cell.recipe)) is None for cell in cells):
            processes.start()
        try:
            tracker.start(uri=tracking.uri, experiment=tracking.experiment or name, name=name)
            results = _run_all(cells, processes=processes, sweep_id=folder.run_id)
            processes.close()
            ensembles = make_ensembles(experiment, results, sweep_id=folder.run_id)
        except BaseException as error:
            processes.interrupt()
            _abandon(folder, tracker, error)
            raise
    failed = any(row["status"] == "failed" for row in [*results, *ensembles])
    state: Literal["failed", "finished"] = "failed" if failed else "finished"
    compared = compare_cells(cells, results, ensembles=ensembles)
    result = {
        "sweep_id": folder.run_id,
        "cells": results,
        "ensembles": ensembles,
        "comparisons": [asdict(comparison) for comparison in compared.comparisons],
        "differences": [*filter(None, [compared.measure]), *compared.words],
    }
    folder.write_result(result)
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
    logger.info("the sweep was stopped; the same command continues it, and skips finished cells")


def _sweep_folder(cells: Sequence[Cell], *, name: str) -> RunFolder:
    """The folder of the sweep. A stopped sweep of the same cells is reused, so that its runs keep their parent."""
    grid = "\n".join(f"{cell.name}: {recipe_sha256(cell.recipe)}" for cell in cells)
    for run in list_runs(kind="sweep"):
        if run.name == name and run.recipe_text() == grid and lock_run(run):
            if run.state != "running":
                run.mark("running")
                return run
            unlock_run(run)
    folder = RunFolder.create(grid, recipe_sha256="", name=name, kind="sweep")
    lock_run(folder)
    return folder


def _run_all(cells: Sequence[Cell], *, processes: CellProcesses, sweep_id: str) -> list[dict[str, Any]]:
    """Run all cells, and log each at its start and end.

    The first round skips cells that another process trains; the second round waits for them.
    """
    rows: dict[int, dict[str, Any]] = {}
    backbones: dict[str, Mapping[str, str]] = {}
    for wait in (False, True):
        for index, cell in enumerate(cells):
            if index in rows:
                continue
            label, sha256 = f"cell {index + 1} of {len(cells)}: {cell.name}", recipe_sha256(cell.recipe)
            logger.info(label)
            with cell_lock(sha256, wait=wait) as locked:
                if not locked:
                    logger.info("%s is trained by another process; it is checked again after the others", label)
                    continue
                rows[index] = _run_cell(cell, sha256, processes=processes, sweep_id=sweep_id, backbones=backbones)
            logger.info("%s %s", label, rows[index]["status"])
    return [rows[index] for index in range(len(cells))]


def _run_cell(
    cell: Cell, sha256: str, *, processes: CellProcesses, sweep_id: str, backbones: dict[str, Mapping[str, str]]
) -> dict[str, Any]:
    # When a sweep is killed, its lock on the cell is free before the process of the cell has ended.
    deadline = time.monotonic() + END_LIMIT_S
    while running_with(sha256) is not None and time.monotonic() < deadline:
        time.sleep(0.1)
    finished = finished_with(sha256)
    if finished is not None:
        return _skipped_row(cell, finished, backbones=backbones)
    stopped = resumable_with(sha256)
    try:
        result = processes.train(cell, resume=stopped.run_id if stopped is not None else None, parent=sweep_id)
    except RunError as error:
        logger.error("cell %s failed: %s", cell.name, error)
        failed = stopped or unfinished_with(sha256)
        run_id = failed.run_id if failed is not None else None
        return summary_row(cell.name, run_id, "failed", {}) | {"error": str(error)}
    return summary_row(cell.name, result["run_id"], "finished", result)


def _skipped_row(cell: Cell, finished: RunFolder, *, backbones: dict[str, Mapping[str, str]]) -> dict[str, Any]:
    """The row of a finished cell, with a warning when its backbone has changed since."""
    row = summary_row(cell.name, finished.run_id, "skipped", finished.result() or {})
    changes = _backbone_changes(finished, cell, known=backbones)
    if not changes:
        return row
    logger.warning(
        "cell %s is finished and is not trained again, although its backbone has changed since: %s. To train it on the "
        "present backbone, remove %s",
        cell.name,
        "; ".join(changes),
        finished.path,
    )
    return row | {"backbone_changed": changes}


def _backbone_changes(run: RunFolder, cell: Cell, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """See `backbone_changes`."""
    if not run.identity.exists():
        return []
    # Imported here, because it loads transformers, which a sweep of finished cells does not need.
    from basereward.training.run_identity import backbone_changes

    return backbone_changes(run, cell.recipe, known=known)
