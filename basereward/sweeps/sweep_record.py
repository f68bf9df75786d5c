"""The record of a sweep in MLflow: the metrics of its best cell, and a table of all cells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.io.files import write_state
from basereward.recipe import Cell
from basereward.runs.provenance import command_line
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.mlflow_view import CHOSEN_BY
from basereward.runs.tracking.tracker import Tracker

TABLE = "cells.json"
"""The table of all cells, in the format of MLflow's `log_table`."""
TABLE_TAG = "mlflow.loggedArtifacts"
"""The tag in which MLflow's pages look for tables."""


def record_results(
    tracker: Tracker, folder: RunFolder, *, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Record the results of a sweep that has run all of its cells.

    Args:
        tracker: of the sweep.
        folder: of the sweep.
        cells: of the sweep.
        rows: a `summary_row` of every cell, in the same order, then those of the ensembles.
    """
    file = folder.path / TABLE
    write_state(file, json.dumps(results_table(cells, rows)))
    # A later call of the sweep replaces it.
    tracker.artifact(file, copy=True)
    tags = {TABLE_TAG: json.dumps([{"path": TABLE, "type": "table"}])}
    best = best_row(rows[: len(cells)])
    if best is not None:
        tags |= {"best.cell": str(best["name"]), "best.run_id": str(best["run_id"])}
        measured = {name: value for name, value in best["metrics"].items() if not math.isnan(value)}
        # A repeated sweep has more finished cells, or the same results.
        tracker.metrics(measured, step=sum(row["status"] != "failed" for row in rows))
    tracker.tags(tags)


def describe_sweep(name: str, *, summary: str, cells: int) -> str:
    """Describe a sweep: its question, its size and how it is made again.

    Args:
        name: of the experiment.
        summary: of the experiment.
        cells: number of cells.

    >>> describe_sweep("mine", summary="How deep?", cells=7).splitlines()[0]
    'How deep?'
    """
    command = command_line()
    again = [f"`{command}` makes it again, and skips cells that are finished.", ""] if command else []
    return "\n".join(
        [
            summary or name,
            "",
            f"{cells} cells, each a child of this run. The metrics here are those of the best cell by "
            "`test/pair_accuracy`, which the tag `best.cell` names; the artifact `cells.json` has all of them.",
            "",
            *again,
            f"`basereward report {name}` writes a page that compares them; it becomes the artifact `report`.",
        ]
    )


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the best cell; None when no cell has the metric.

    >>> rows = [{"name": name, "metrics": {CHOSEN_BY: value}} for name, value in (("a", 0.5), ("b", 0.9))]
    >>> best_row(rows)["name"]
    'b'
    """
    scored = [row for row in rows if not math.isnan(row["metrics"].get(CHOSEN_BY, math.nan))]
    return max(scored, key=lambda row: float(row["metrics"][CHOSEN_BY]), default=None)


def results_table(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns and the data of a table with one line for each cell and ensemble.

    Args:
        cells: of the sweep.
        rows: as of `record_results`.

    >>> from basereward.recipe import load_cells
    >>> cells = load_cells("learning_rates")[:1]
    >>> row = {"name": "lr=0.001", "status": "finished", "run_id": "r1", "pair_s": 0.5, "metrics": {CHOSEN_BY: 0.9}}
    >>> results_table(cells, [row])
    {'columns': ['name', 'lr', 'test/pair_accuracy', 'seconds of a pair', 'status', 'run'],
     'data': [['lr=0.001', '0.001', 0.9, 0.5, 'finished', 'r1']]}
    """
    axes = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
    measured = {metric for row in rows for metric in row["metrics"]}
    # The metric that decides comes first.
    metrics = sorted(measured, key=lambda metric: (metric != CHOSEN_BY, metric))
    labels = [dict(cell.axes) for cell in cells] + [{}] * (len(rows) - len(cells))
    data = []
    for row, cell_labels in zip(rows, labels, strict=True):
        values = [_finite(row["metrics"].get(metric)) for metric in metrics]
        line = [row["name"], *(cell_labels.get(axis, "") for axis in axes), *values]
        data.append([*line, _finite(row["pair_s"]), row["status"], row["run_id"]])
    return {"columns": ["name", *axes, *metrics, "seconds of a pair", "status", "run"], "data": data}


def _finite(value: float | None) -> float | None:
    """A number of a table; None for a missing one and for NaN, which JSON does not have."""
    return None if value is None or math.isnan(value) else value
