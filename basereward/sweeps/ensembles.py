"""Makes the ensembles of an experiment, after its cells are trained."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from basereward.errors import RunError
from basereward.recipe import Experiment
from basereward.recipe.schema import EnsembleRecipe
from basereward.runs.locks import cell_lock
from basereward.sweeps.results import ensemble_sha256, finished_ensemble, members_of, summary_row
from basereward.sweeps.worker_process import ReusedWorker

logger = logging.getLogger(__name__)


def make_ensembles(
    experiment: Experiment, cells: Sequence[Mapping[str, Any]], *, sweep_id: str
) -> list[dict[str, Any]]:
    """Make and test every ensemble that does not exist yet, in one process until one of them fails.

    Args:
        experiment: with its ensembles.
        cells: name, run id and status of every cell.
        sweep_id: id of the sweep.

    Returns:
        A `summary_row` of each ensemble, with `error` when it failed.
    """
    results = []
    with contextlib.closing(ReusedWorker("basereward.sweeps.ensemble_worker")) as worker:
        for number, (name, recipe) in enumerate(experiment.ensembles.items(), start=1):
            logger.info("ensemble %d of %d: %s", number, len(experiment.ensembles), name)
            row = _make(name, recipe, experiment, cells, worker=worker, sweep_id=sweep_id)
            logger.info("ensemble %s: %s", name, row["status"])
            results.append(row)
    return results


def _make(
    name: str,
    recipe: EnsembleRecipe,
    experiment: Experiment,
    cells: Sequence[Mapping[str, Any]],
    *,
    worker: ReusedWorker,
    sweep_id: str,
) -> dict[str, Any]:
    """The row of one ensemble, which is made unless it exists or has a failed member."""
    runs = {cell["name"]: cell["run_id"] for cell in cells if cell["status"] != "failed"}
    missing = [member for member in [*recipe.members, *recipe.text] if member not in runs]
    if missing:
        return _failed_row(name, f"its members {', '.join(missing)} failed; fix them and run the sweep again")
    sha256 = ensemble_sha256(recipe, {cell.name: cell for cell in experiment.cells})
    # Another sweep of the same experiment may be making it; two would write the same ensemble twice.
    with cell_lock(sha256, wait=True):
        done = finished_ensemble(sha256, members_of(recipe, runs))
        if done is not None:
            return summary_row(name, done.run_id, "skipped", done.result() or {})
        try:
            result = worker.run(_task(name, recipe, experiment, runs=runs, sha256=sha256), parent=sweep_id)
        except RunError as error:
            logger.error("ensemble %s failed: %s", name, error)
            return _failed_row(name, str(error))
    return summary_row(name, result["run_id"], "finished", result)


def _task(name: str, recipe: EnsembleRecipe, experiment: Experiment, *, runs: Mapping[str, str], sha256: str) -> str:
    """The task of the worker, as JSON: `recipe`, `name`, `sha256` and `tracking`."""
    # The experiment names cells; the worker gets their runs.
    member_runs = [runs[member] for member in recipe.members]
    text_runs = [runs[member] for member in recipe.text]
    recipe_of_runs = replace(recipe, members=member_runs, text=text_runs)
    # All cells of an experiment are tracked in one place, and so are its ensembles.
    settings = experiment.cells[0].recipe.tracking
    tracking = {"uri": settings.uri, "experiment": settings.experiment or experiment.name}
    return json.dumps({"recipe": asdict(recipe_of_runs), "name": name, "sha256": sha256, "tracking": tracking})


def _failed_row(name: str, error: str) -> dict[str, Any]:
    return summary_row(name, None, "failed", {}) | {"error": error}
