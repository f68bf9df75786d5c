"""Finds the finished runs of an experiment: those of its cells and of its ensembles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from basereward.recipe import Cell, Experiment, recipe_sha256
from basereward.recipe.schema import EnsembleRecipe
from basereward.runs.run_folder import RunFolder, finished_with, list_runs


@dataclass(frozen=True, slots=True)
class CellResult:
    """One row of an experiment: a cell, or an ensemble of cells.

    Attributes:
        name: of the cell or ensemble.
        run: its finished run; None without one.
        cell: None for an ensemble.
        ensemble: None for a cell.

    >>> CellResult("all", run=None, ensemble=EnsembleRecipe(members=["lr=1", "lr=2"])).cell is None
    True
    """

    name: str
    run: RunFolder | None
    cell: Cell | None = None
    ensemble: EnsembleRecipe | None = None


def results(experiment: Experiment) -> list[CellResult]:
    """List the results of an experiment: the cells in their order, then the ensembles in theirs.

    >>> from basereward.recipe import load_experiment
    >>> [row.name for row in results(load_experiment("learning_rates"))]
    ['lr=0.001', 'lr=0.0003', 'lr=0.0001', 'lr=3e-05']
    """
    cells = {cell.name: cell for cell in experiment.cells}
    rows = [CellResult(name, finished_with(recipe_sha256(cell.recipe)), cell=cell) for name, cell in cells.items()]
    runs = {row.name: row.run.run_id for row in rows if row.run is not None}
    for name, recipe in experiment.ensembles.items():
        run = finished_ensemble(ensemble_sha256(recipe, cells), members_of(recipe, runs))
        rows.append(CellResult(name, run, ensemble=recipe))
    return rows


def members_of(recipe: EnsembleRecipe, runs: Mapping[str, str]) -> list[str | None]:
    """The run ids of an ensemble's members, in the order of the ensemble; None for a member that is not finished.

    Args:
        recipe: of the ensemble; it names cells.
        runs: run ids of the finished cells, by name.

    >>> members_of(EnsembleRecipe(members=["lr=1", "lr=2"]), {"lr=1": "20260314-153012-9f2c41"})
    ['20260314-153012-9f2c41', None]
    """
    return [runs.get(name) for name in dict.fromkeys([*recipe.members, *recipe.text])]


def finished_ensemble(sha256: str, members: Sequence[str | None]) -> RunFolder | None:
    """The newest finished ensemble, or soup, of these runs.

    An ensemble of earlier runs of the same cells does not count, because these runs may be deleted.

    Args:
        sha256: of `ensemble_sha256`.
        members: run ids, of `members_of`.

    >>> finished_ensemble("not the hash of a recipe", ["20260314-153012-9f2c41"]) is None
    True
    """
    # `list_runs` gives the newest first.
    for run in list_runs(kind="ensemble"):
        if run.status["recipe_sha256"] == sha256 and run.state == "finished":
            # A run that was removed while others are listed has no result, and then no members.
            member_runs = [member["name"] for member in (run.result() or {}).get("members", [])]
            if member_runs == members:
                return run
    return None


def ensemble_sha256(recipe: EnsembleRecipe, cells: Mapping[str, Cell]) -> str:
    """Hash an ensemble: equal for ensembles that combine equal recipes in the same way, whatever the cells' names.

    Args:
        recipe: of the ensemble; it names cells.
        cells: of the experiment, by name.

    >>> from basereward.recipe import load_cells
    >>> (cell,) = load_cells("basereward")
    >>> one, two = (EnsembleRecipe(members=[name]) for name in ("lr=1", "rate=1"))
    >>> ensemble_sha256(one, {"lr=1": cell}) == ensemble_sha256(two, {"rate=1": cell})
    True
    """
    # By the hashes of the members' recipes: renaming an axis must not make a finished ensemble again.
    members = {
        "members": [recipe_sha256(cells[name].recipe) for name in recipe.members],
        "text": [recipe_sha256(cells[name].recipe) for name in recipe.text],
    }
    content = json.dumps(asdict(recipe) | members, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def summary_row(name: str, run_id: str | None, status: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the output of a sweep: a cell or an ensemble, with the metrics of its run.

    Args:
        name: of the cell or ensemble.
        run_id: of its run.
        status: `finished`, `skipped` or `failed`.
        result: content of result.json.

    >>> summary_row("lr=1", "20260314-1", "skipped", {"metrics": {"test/pair_accuracy": 0.5}})["pair_s"] is None
    True
    """
    measured = {"metrics": result.get("metrics", {}), "pair_s": result.get("pair_s")}
    return {"name": name, "run_id": run_id, "status": status, **measured}
