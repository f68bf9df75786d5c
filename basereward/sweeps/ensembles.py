"""What an experiment makes of its cells when they are trained."""

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
    """Makes and tests every ensemble that is not there yet, in a process that goes on with the next until one fails.

    Args:
        cells: of every cell its name, run id and status.

    Returns:
        Of each what a sweep tells of a cell: name, run id, status, metrics, `pair_s`, and `error` where it failed.
    """
    results = []
    with contextlib.closing(ReusedWorker("basereward.sweeps.ensemble_worker")) as process:
        for name, recipe in experiment.ensembles.items():
            results.append(_make(name, recipe, experiment, cells, process=process, sweep_id=sweep_id))
            logger.info("ensemble %s: %s", name, results[-1]["status"])
    return results


def _make(
    name: str,
    recipe: EnsembleRecipe,
    experiment: Experiment,
    cells: Sequence[Mapping[str, Any]],
    *,
    process: ReusedWorker,
    sweep_id: str,
) -> dict[str, Any]:
    runs = {cell["name"]: cell["run_id"] for cell in cells if cell["status"] != "failed"}
    if missing := [member for member in [*recipe.members, *recipe.text] if member not in runs]:
        error = f"its members {', '.join(missing)} failed; run the sweep again when they are mended"
        return summary_row(name, None, "failed", {}) | {"error": error}
    sha256 = ensemble_sha256(recipe, {cell.name: cell for cell in experiment.cells})
    members = replace(recipe, members=[runs[m] for m in recipe.members], text=[runs[m] for m in recipe.text])
    tracking = experiment.cells[0].recipe.tracking
    place = {"uri": tracking.uri, "experiment": tracking.experiment or experiment.name}
    asked = {"recipe": asdict(members), "name": name, "sha256": sha256, "tracking": place}
    with cell_lock(sha256, wait=True):  # a sweep beside this one may be making it
        done = finished_ensemble(sha256, members_of(recipe, runs))
        if done is not None:
            return summary_row(name, done.run_id, "skipped", done.result() or {})
        try:
            result = process.ask(json.dumps(asked), parent=sweep_id)
        except RunError as error:
            logger.error("ensemble %s failed: %s", name, error)
            return summary_row(name, None, "failed", {}) | {"error": str(error)}
    return summary_row(name, result["run_id"], "finished", result)
