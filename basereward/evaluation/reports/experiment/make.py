"""`basereward report EXPERIMENT`: the page, its figures and numbers, and their place in MLflow."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.reports.drawing import keep
from basereward.evaluation.reports.experiment.accuracy import Column, accuracy_rows, columns
from basereward.evaluation.reports.experiment.benchmark_section import benchmark_rows, benchmarks
from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.reports.experiment.other_runs import other_runs
from basereward.evaluation.reports.experiment.paper_section import paper
from basereward.evaluation.reports.experiment.parts import Section
from basereward.evaluation.reports.experiment.recipe_section import costs, differences, runs
from basereward.evaluation.reports.experiment.results_section import learning, results, trust
from basereward.evaluation.reports.markup import join, tag
from basereward.evaluation.reports.numbers import as_csv
from basereward.evaluation.reports.page import written
from basereward.evaluation.published.published import every_value
from basereward.evaluation.published.published_table import tables_of
from basereward.evaluation.recording import record
from basereward.io.files import write_atomic
from basereward.recipe import Experiment, load_experiment, recipe_sha256
from basereward.recipe.table import count
from basereward.sweeps.comparison import Compared, compare_cells
from basereward.runs.run_folder import RunFolder, list_runs


@dataclass(frozen=True)
class ReportPage:
    """A page that is written, and what it is about."""

    out: Path
    experiment: Experiment
    contenders: Sequence[Contender]
    accuracy: Sequence[Column]
    figures: Sequence[str]
    csv: Path
    recorded: str | None  # the run whose record it went to
    others: Sequence[str] = ()  # finished runs under other settings
    kept: bool = False  # the page that was there stays, since there is nothing to put in its place

    def told(self) -> dict[str, Any]:
        """For `--json`."""
        cells = [result for each in self.contenders for result in each.results]
        finished = sum(result.run is not None for result in cells)
        files = {"out": str(self.out), "figures": list(self.figures), "csv": str(self.csv)}
        counts = {"cells": len(cells), "finished": finished}
        more = {"others": list(self.others), "kept": self.kept}
        return {"experiment": self.experiment.name, **files, **counts, "run_id": self.recorded, **more}


def make_page(name: str, *, profile: str, overrides: Sequence[str], out: Path, keep_page: bool = False) -> ReportPage:
    """Writes the page of one experiment at `out`, and in a folder of its name beside it the figures (PNG and PDF) and
    `numbers.csv`.

    All of them go to the MLflow run of the experiment's newest sweep here, or of its one cell.

    Args:
        keep_page: a page that is there is not replaced by one without any finished run.

    Raises:
        RecipeError: the experiment is wrong; nothing is written.
        DataError: the published tables are wrong, or the page cannot be written there.
    """
    experiment = load_experiment(name, profile=profile, overrides=overrides)
    contenders = gather(experiment)
    others = other_runs(experiment) if any(each.missing for each in contenders) else []
    numbers = out.with_suffix("") / "numbers.csv"
    if keep_page and out.is_file() and not any(each.trained for each in contenders):
        return ReportPage(out, experiment, contenders, columns(contenders), [], numbers, None, others, kept=True)
    how = _command(name, profile, overrides, sweep=len(experiment.cells) > 1 or bool(experiment.ensembles))
    accuracy = columns(contenders)
    measured = benchmark_rows(contenders, every_value())
    sections = [
        results(contenders, accuracy, _compared(experiment, contenders)),
        paper(tables_of(experiment.name), contenders),
        benchmarks(contenders, measured),
        learning(contenders),
        trust(contenders),
        costs(contenders),
        differences(contenders),
        runs(contenders, how=how),
    ]
    shown = [section for section in sections if section is not None]
    folder = out.with_suffix("")
    _make(folder)
    figures = [
        file
        for section in shown
        for each in section.drawings
        for file in keep(each.figure, folder, each.name, "png", "pdf")
    ]
    write_atomic(numbers, as_csv([*accuracy_rows(accuracy, seeds=True), *(row for same in measured for row in same)]))
    write_atomic(out, _page(experiment, contenders, shown, profile=profile, how=how, others=others))
    run = _home(experiment)
    if run is not None:
        record(run, {}, [out, numbers, *map(Path, figures)], folder="report")
    return ReportPage(out, experiment, contenders, accuracy, figures, numbers, run.run_id if run else None, others)


def _page(
    experiment: Experiment,
    contenders: Sequence[Contender],
    sections: Iterable[Section],
    *,
    profile: str,
    how: str,
    others: Sequence[str],
) -> str:
    cells = [result for each in contenders for result in each.results]
    missing = [result.name for result in cells if result.run is None]
    done = f"{len(cells) - len(missing)} of {count(len(cells), 'cell')} and ensembles finished, profile {profile}."
    warning = None
    if missing:
        named = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        warning = tag(
            "p", f"Not finished: {named}. To finish them: ", tag("code", how), _hint(others), class_="warning"
        )
    parts = {
        "title": tag("title", f"{experiment.name}, {profile}"),
        "head": join([tag("h1", experiment.name), tag("p", experiment.summary), tag("p", done, id="about"), warning]),
        "contents": join(tag("a", each.title, href=f"#{each.name}") for each in sections),
        "sections": join(each.html() for each in sections),
    }
    return written("experiment", parts, base="tables")


def _hint(others: Sequence[str]) -> str:
    return f". There are {'; '.join(others)}: the same settings after the name make their page." if others else ""


def _command(name: str, profile: str, overrides: Iterable[str], *, sweep: bool) -> str:
    return shlex.join(["basereward", "sweep" if sweep else "train", name, "--profile", profile, *overrides])


def _compared(experiment: Experiment, contenders: Sequence[Contender]) -> Compared:
    """Of all that have test scores; what is not finished is left out, as the page says elsewhere."""
    done = {run.name: run.run.run_id for each in contenders for run in each.trained}
    told = {name: {"name": name, "run_id": run_id, "status": "finished"} for name, run_id in done.items()}
    cells = [cell for cell in experiment.cells if cell.name in told]
    ensembles = [told[name] for name in experiment.ensembles if name in told]
    return compare_cells(cells, [told[cell.name] for cell in cells], ensembles=ensembles)


def _home(experiment: Experiment) -> RunFolder | None:
    """The newest sweep that had one of the cells; where nothing was swept, the run of the only cell."""
    hashes = {recipe_sha256(cell.recipe) for cell in experiment.cells}
    for run in list_runs(kind="sweep"):
        if run.name == experiment.name and any(each in run.recipe_text() for each in hashes):
            return run
    if len(hashes) > 1:
        return None
    return next((run for run in list_runs() if run.status["recipe_sha256"] in hashes and run.state == "finished"), None)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"nothing can be written to '{folder}': {error.strerror or error}") from error
