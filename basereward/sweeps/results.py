"""What there is of an experiment: the finished run of every cell and of every ensemble of them."""

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
    """One row of an experiment: a cell, or an ensemble of cells; `run` is None where none is finished."""

    name: str
    run: RunFolder | None
    cell: Cell | None = None
    ensemble: EnsembleRecipe | None = None


def results(experiment: Experiment) -> list[CellResult]:
    """Cells in their order, then ensembles in theirs."""
    cells = {cell.name: cell for cell in experiment.cells}
    found = [CellResult(name, finished_with(recipe_sha256(cell.recipe)), cell=cell) for name, cell in cells.items()]
    runs = {result.name: result.run.run_id for result in found if result.run is not None}
    for name, recipe in experiment.ensembles.items():
        run = finished_ensemble(ensemble_sha256(recipe, cells), members_of(recipe, runs))
        found.append(CellResult(name, run, ensemble=recipe))
    return found


def members_of(recipe: EnsembleRecipe, runs: Mapping[str, str]) -> list[str | None]:
    """The runs of an ensemble's members, in the order in which it holds them; None for one that is not finished.

    Args:
        runs: of every cell that is, its run's id.
    """
    return [runs.get(name) for name in dict.fromkeys([*recipe.members, *recipe.text])]


def finished_ensemble(sha256: str, members: Sequence[str | None]) -> RunFolder | None:
    """The newest finished ensemble, or soup, of these very runs. One of earlier runs of the same cells is another:
    its members may be gone."""
    for run in list_runs(kind="ensemble"):
        if run.status["recipe_sha256"] == sha256 and run.state == "finished":
            held = [member["name"] for member in (run.result() or {}).get("members", [])]
            if held == members:
                return run
    return None


def ensemble_sha256(recipe: EnsembleRecipe, cells: Mapping[str, Cell]) -> str:
    """Equal for ensembles that combine models of equal recipes in the same way, whatever their names."""
    named: dict[str, Sequence[str]] = {"members": recipe.members, "text": recipe.text}
    shas = {key: [recipe_sha256(cells[name].recipe) for name in names] for key, names in named.items()}
    content = json.dumps(asdict(recipe) | shas, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def summary_row(name: str, run_id: str | None, status: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep tells of a cell or an ensemble, whose run came to `result`."""
    measured = {"metrics": result.get("metrics", {}), "pair_s": result.get("pair_s")}
    return {"name": name, "run_id": run_id, "status": status, **measured}
