"""A grid's cells, run one after another. Sweeps of one grid beside each other share them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from basereward.errors import RunError
from basereward.io.leftovers import remove_leftovers
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

END_S = 15.0  # that the process of a cell has to end by itself when its sweep was killed


def sweep(experiment: Experiment) -> dict[str, Any]:
    """Runs every cell that is not finished, and then makes the ensembles of them. A cell that fails is named and does
    not stop the rest; one that was stopped goes on from its last checkpoint. What another process trains comes last,
    and is waited for.

    Returns:
        `sweep_id`; `cells`: name, run id, status (finished, skipped or failed), test metrics, and `pair_s`, the seconds
        of a scored pair, of each; `ensembles`, the same of each; `comparisons` of the best recipe with every other, as
        `compare` makes them; `differences`, lines that say which stand, on which pairs, and who was not compared.
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
            together = make_ensembles(experiment, results, sweep_id=folder.run_id)
        except BaseException as error:
            processes.interrupt()
            ended: Literal["failed", "killed"] = "failed" if isinstance(error, Exception) else "killed"
            tracker.close(ended)
            folder.give_up(ended, error)
            tracker.finish(ended)
            logger.info("the sweep was stopped; the same command goes on with it, and skips cells that are finished")
            raise
    state: Literal["failed", "finished"] = (
        "failed" if any(result["status"] == "failed" for result in [*results, *together]) else "finished"
    )
    compared = compare_cells(cells, results, ensembles=together)
    result = {
        "sweep_id": folder.run_id,
        "cells": results,
        "ensembles": together,
        "comparisons": [asdict(each) for each in compared.comparisons],
        "differences": [*filter(None, [compared.measure]), *compared.words],
    }
    folder.write_result(result)
    tracker.close(state)
    folder.mark(state)
    tracker.finish(state)
    return result


def _sweep_folder(cells: Sequence[Cell], *, name: str) -> RunFolder:
    """The folder of the sweep: that of the same cells when it was stopped, so that its runs keep their parent."""
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
    """What becomes of every cell, told as each begins and ends."""
    results: dict[int, dict[str, Any]] = {}
    backbones: dict[str, Mapping[str, str]] = {}
    for wait in (False, True):
        for at in [at for at in range(len(cells)) if at not in results]:
            place, sha256 = f"cell {at + 1} of {len(cells)}: {cells[at].name}", recipe_sha256(cells[at].recipe)
            logger.info(place)
            with cell_lock(sha256, wait=wait) as ours:
                if not ours:
                    logger.info("%s is trained by another process; it is looked at again after the others", place)
                    continue
                results[at] = _cell(cells[at], sha256, processes=processes, sweep_id=sweep_id, backbones=backbones)
            logger.info("%s %s", place, results[at]["status"])
    return [results[at] for at in range(len(cells))]


def _cell(
    cell: Cell, sha256: str, *, processes: CellProcesses, sweep_id: str, backbones: dict[str, Mapping[str, str]]
) -> dict[str, Any]:
    deadline = time.monotonic() + END_S
    while running_with(sha256) is not None and time.monotonic() < deadline:
        time.sleep(0.1)  # a sweep that was killed lets go of its cell before the cell's process has seen it
    done = finished_with(sha256)
    if done is not None:
        changed = _backbone_changes(done, cell, known=backbones)
        if changed:
            logger.warning(
                "cell %s is finished and stays as it is, and its backbone has changed since: %s. To train it on the "
                "backbone of now, remove %s",
                *(cell.name, "; ".join(changed), done.path),
            )
        skipped = summary_row(cell.name, done.run_id, "skipped", done.result() or {})
        return skipped | ({"backbone_changed": changed} if changed else {})
    stopped = resumable_with(sha256)
    try:
        result = processes.train(cell, resume=stopped.run_id if stopped is not None else None, parent=sweep_id)
    except RunError as error:
        logger.error("cell %s failed: %s", cell.name, error)
        failed = stopped or unfinished_with(sha256)
        run_id = failed.run_id if failed is not None else None
        return summary_row(cell.name, run_id, "failed", {}) | {"error": str(error)}
    return summary_row(cell.name, result["run_id"], "finished", result)


def _backbone_changes(run: RunFolder, cell: Cell, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """See `backbone_changes`."""
    if not run.identity.exists():
        return []
    from basereward.training.run_identity import (
        backbone_changes,  # loads transformers, which sweeps do without otherwise
    )

    return backbone_changes(run, cell.recipe, known=known)
