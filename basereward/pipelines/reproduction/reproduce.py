"""`basereward reproduce`: train the cells of a published table, measure them on its benchmarks, and write its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, DataError, sentence
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.recording import record
from basereward.evaluation.reports.analyses.table_page import CellHours, ReproducedTable, write_table_page
from basereward.evaluation.reports.experiment.sweep_settings import SweepSettings, page_folder
from basereward.evaluation.run_benchmark import check_whole, open_subject
from basereward.evaluation.suite import evaluate_each
from basereward.io.outputs import check_folder_of, check_outside_runs
from basereward.io.progress import announce, phase
from basereward.pipelines.reproduction.plan import TablePlan
from basereward.rl.running.cost import costs
from basereward.runs.run_folder import find
from basereward.sweeps.results import CellResult, results
from basereward.sweeps.sweep import sweep
from basereward.training.preflight import unfinished

PAGES = Path("reports")


def describe(plan: TablePlan, *, gpu: str) -> dict[str, Any]:
    """What would be trained and measured, without doing it.

    Args:
        plan: of the table.
        gpu: the GPU whose hours are counted.

    Returns:
        `table`, `title`, `experiment`, `profile`, `on`; `cells`, with their state and hours; `benchmarks`, with their
        items or the fault that keeps them from being read; `gpu`, `hours` and `hours_fault`.
    """
    hours = counted_hours(plan, gpu=gpu)
    cells: list[dict[str, Any]] = []
    for result in results(plan.experiment):
        cells.append(_cell(result, hours))
    benchmarks: list[dict[str, Any]] = []
    for name, overrides in plan.benchmarks.items():
        benchmark = load_benchmark(name, overrides=overrides)
        fault = _fault(benchmark)
        items = None if fault else len(benchmark.items)
        benchmarks.append({"name": benchmark.name, "items": items, "fault": fault})
    return {**_head(plan), "cells": cells, "benchmarks": benchmarks, **_hours(hours)}


def reproduce(
    plan: TablePlan, *, gpu: str, devices: Sequence[str] | int = (), out: str | None = None
) -> dict[str, Any]:
    """Train the cells that are not finished, measure all on the benchmarks, and write the page.

    What is finished is kept: the same call continues after a stop. A cell that fails, or a benchmark that cannot be
    scored, does not stop the others; the page and `faults` say so.

    Args:
        plan: of the table.
        gpu: whose hours the page counts.
        devices: that models score on, as of `evaluate`.
        out: the page; None: `reports`/PROFILE/EXPERIMENT/SWEEP/TABLE.html.

    Returns:
        As `describe`, and `faults`, `out`, `files` and `sweep_id`.

    Raises:
        DataError: a benchmark cannot be read; nothing is trained.
        BaseRewardError: a cell cannot be trained here; nothing is trained.
    """
    page = _page(plan, out)
    opened = _opened(plan)
    hours = counted_hours(plan, gpu=gpu)
    number = len(unfinished(plan.experiment.cells))
    announce(f"training: {number} of {len(plan.experiment.cells)} cells are not finished")
    trained = sweep(plan.experiment)
    faults = [
        f"{row['name']} failed: {row.get('error')}"
        for row in [*trained["cells"], *trained["ensembles"]]
        if row["status"] == "failed"
    ]
    faults += _evaluate(plan, devices=devices)
    measured = [benchmark.name for benchmark in opened]
    is_stand_in = plan.on == "stand_ins"
    subject = ReproducedTable(
        plan.name, plan.table, plan.experiment, plan.command, is_stand_in, measured, hours, faults
    )
    with phase("comparing and drawing"):
        files = write_table_page(subject, out=page, folder=page.with_suffix(""))
    record(find(trained["sweep_id"]), {}, [page, *map(Path, files)], folder="report")
    made = {"faults": faults, "out": str(page), "files": files, "sweep_id": trained["sweep_id"]}
    cells = [_cell(result, hours) for result in results(plan.experiment)]
    counted = [{"name": benchmark.name, "items": len(benchmark.items), "fault": None} for benchmark in opened]
    return {**_head(plan), "cells": cells, "benchmarks": counted, **_hours(hours), **made}


def counted_hours(plan: TablePlan, *, gpu: str) -> CellHours:
    """GPU hours of all cells, finished or not, by the count of the cost model."""
    try:
        counted = costs(plan.experiment.cells, gpus=[gpu])
    except BaseRewardError as error:
        # The data of a finished cell may be gone, and those of a plan may not be there yet.
        return CellHours(gpu, {}, fault=str(error))
    cells = zip(plan.experiment.cells, counted, strict=True)
    return CellHours(gpu, {cell.name: cost["gpus"][gpu]["hours"] for cell, cost in cells})


def _evaluate(plan: TablePlan, *, devices: Sequence[str] | int) -> list[str]:
    """Measure every finished cell and ensemble, without cells that are members of ensembles alone.

    Returns:
        What could not be measured, in words.
    """
    measured = [result for result in results(plan.experiment) if result.name not in plan.members_alone]
    finished = [result for result in measured if result.run is not None]
    faults: list[str] = []
    for place, result in enumerate(finished, 1):
        assert result.run is not None
        announce(f"measuring {place} of {len(finished)}: {result.name}")
        subject = open_subject(result.run.run_id, None, None, out=None, name=None)
        each = evaluate_each(subject, list(plan.benchmarks), devices=devices, overrides=plan.overrides)
        faults += [f"{result.name} on {name}: {reason}" for name, reason in each.absent.items()]
    return faults


def _opened(plan: TablePlan) -> list[Benchmark]:
    """The benchmarks with their rows.

    Raises:
        DataError: some cannot be read; the message says why for each.
    """
    opened: list[Benchmark] = []
    faults: list[str] = []
    for name, overrides in plan.benchmarks.items():
        benchmark = load_benchmark(name, overrides=overrides)
        opened.append(benchmark)
        if fault := _fault(benchmark):
            faults.append(f"{benchmark.name}: {sentence(fault)} Download its files and add {name}.data=PATH")
    if faults:
        listed = "\n  ".join(faults)
        raise DataError(
            f"the table '{plan.name}' needs benchmarks that cannot be read, so nothing is trained:\n  {listed}\n"
            "Or measure on some of its benchmarks only, by --benchmark NAME"
        )
    return opened


def _fault(benchmark: Benchmark) -> str | None:
    """Why a model cannot be measured on a benchmark; None if it can."""
    try:
        check_whole(benchmark, allow_partial=False)
    except DataError as error:
        return str(error)
    return f"its rows have {benchmark.unscored}, which models cannot read" if benchmark.unscored else None


def _page(plan: TablePlan, out: str | None) -> Path:
    """Where the page is written.

    Raises:
        DataError: the path that is given has no place for a page.
    """
    if out is None:
        return page_folder(PAGES, SweepSettings(plan.word, plan.experiment)) / f"{plan.name}.html"
    page = Path(out)
    if page.suffix != ".html" or page.is_dir():
        raise DataError(f"--out '{out}': give the name of a file that ends in .html")
    check_folder_of(page, what="the page")
    check_outside_runs(page, name="--out")
    return page


def _head(plan: TablePlan) -> dict[str, Any]:
    table, experiment = plan.table, plan.experiment
    paper = {"table": plan.name, "title": f"{table.title}, {table.paper}", "arxiv": table.arxiv}
    return {**paper, "experiment": plan.word, "profile": experiment.profile, "on": plan.on, "command": plan.command}


def _hours(hours: CellHours) -> dict[str, Any]:
    return {"gpu": hours.gpu, "hours": hours.total, "hours_fault": hours.fault}


def _cell(result: CellResult, hours: CellHours) -> dict[str, Any]:
    run_id = None if result.run is None else result.run.run_id
    state = "not finished" if run_id is None else "finished"
    return {"name": result.name, "state": state, "run_id": run_id, "hours": hours.by_cell.get(result.name)}
