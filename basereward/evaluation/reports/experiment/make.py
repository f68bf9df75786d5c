"""`basereward report EXPERIMENT`: write the page of an experiment with its figures and numbers, and record them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import DataError, format_count
from basereward.evaluation.published.published import every_value
from basereward.evaluation.published.published_table import tables_of
from basereward.evaluation.recording import record
from basereward.evaluation.reports.drawing import save
from basereward.evaluation.reports.experiment.accuracy import Column, accuracy_rows, columns
from basereward.evaluation.reports.experiment.benchmark_section import benchmark_rows, benchmarks
from basereward.evaluation.reports.experiment.differences import other_runs
from basereward.evaluation.reports.experiment.gather import Contender, all_results, gather
from basereward.evaluation.reports.experiment.paper_section import paper
from basereward.evaluation.reports.experiment.parts import Section
from basereward.evaluation.reports.experiment.recipe_section import costs, differences, runs
from basereward.evaluation.reports.experiment.results_section import learning, results, trust
from basereward.evaluation.reports.markup import Markup, join, tag
from basereward.evaluation.reports.numbers import Row, as_csv
from basereward.evaluation.reports.page import render_static_page
from basereward.io.files import write_atomic
from basereward.io.progress import phase
from basereward.recipe import Experiment, load_experiment, recipe_sha256
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.sweeps.comparison import Compared, compare_cells

# Cells without a finished run that the head of the page names.
MAX_NAMED = 8


@dataclass(frozen=True)
class ReportPage:
    """A written page, and its content."""

    out: Path
    experiment: Experiment
    contenders: Sequence[Contender]
    accuracy: Sequence[Column]
    figures: Sequence[str]
    csv: Path
    recorded: str | None
    """the run whose MLflow record got the files"""
    others: Sequence[str] = ()
    """finished runs under other settings, as `other_runs` describes them"""
    kept: bool = False
    """whether an earlier page was left in place, since no run is finished now"""

    def as_dict(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        cells = all_results(self.contenders)
        return {
            "experiment": self.experiment.name,
            "out": str(self.out),
            "figures": list(self.figures),
            "csv": str(self.csv),
            "cells": len(cells),
            "finished": sum(result.run is not None for result in cells),
            "run_id": self.recorded,
            "others": list(self.others),
            "kept": self.kept,
        }


def make_page(name: str, *, profile: str, overrides: Sequence[str], out: Path, keep_page: bool = False) -> ReportPage:
    """Write the page of one experiment.

    A folder of the same name beside the page gets the figures (PNG and PDF) and `numbers.csv`. All files are also added
    to the MLflow run of the newest sweep of the experiment, or of its only cell.

    Args:
        name: of the experiment, or the path of its YAML file.
        profile: the experiment is compiled for.
        overrides: `key=value` changes of the experiment.
        out: the page.
        keep_page: leave an earlier page in place if no run is finished.

    Raises:
        RecipeError: the experiment is wrong; nothing is written.
        DataError: the published tables are wrong, or the page cannot be written.
    """
    experiment = load_experiment(name, profile=profile, overrides=overrides)
    with phase(f"reading the runs of {experiment.name}"):
        contenders = gather(experiment)
    # Other settings only explain why runs are missing here.
    others = other_runs(experiment) if any(contender.missing for contender in contenders) else []
    accuracy = columns(contenders)
    folder = out.with_suffix("")
    csv_file = folder / "numbers.csv"
    if keep_page and out.is_file() and not any(contender.trained for contender in contenders):
        return ReportPage(out, experiment, contenders, accuracy, [], csv_file, None, others, kept=True)
    how = _command(name, profile, overrides, sweep=len(experiment.cells) > 1 or bool(experiment.ensembles))
    groups = benchmark_rows(contenders, every_value())
    with phase("comparing and drawing"):
        sections = _sections(experiment, contenders, accuracy, groups, how=how)
        _make_folder(folder)
        figures = _save_figures(sections, folder)
    rows = accuracy_rows(accuracy, seeds=True)
    for group in groups:
        rows += group
    write_atomic(csv_file, as_csv(rows))
    write_atomic(out, _page(experiment, contenders, sections, profile=profile, how=how, others=others))
    run_id = _record(experiment, [out, csv_file, *map(Path, figures)])
    return ReportPage(out, experiment, contenders, accuracy, figures, csv_file, run_id, others)


def _sections(
    experiment: Experiment,
    contenders: Sequence[Contender],
    accuracy: Sequence[Column],
    groups: Sequence[Sequence[Row]],
    *,
    how: str,
) -> list[Section]:
    """The sections in the order of the page, without those that have no content."""
    sections = [
        results(contenders, accuracy, _compared(experiment, contenders)),
        paper(tables_of(experiment.name), contenders),
        benchmarks(contenders, groups),
        learning(contenders),
        trust(contenders),
        costs(contenders),
        differences(contenders),
        runs(contenders, how=how),
    ]
    return [section for section in sections if section is not None]


def _save_figures(sections: Iterable[Section], folder: Path) -> list[str]:
    files: list[str] = []
    for section in sections:
        for drawing in section.drawings:
            files += save(drawing.figure, folder, drawing.name, "png", "pdf")
    return files


def _page(
    experiment: Experiment,
    contenders: Sequence[Contender],
    sections: Sequence[Section],
    *,
    profile: str,
    how: str,
    others: Sequence[str],
) -> str:
    cells = all_results(contenders)
    missing = [result.name for result in cells if result.run is None]
    finished = (
        f"{len(cells) - len(missing)} of {format_count(len(cells), 'cell')} and ensembles finished, profile {profile}."
    )
    warning = _missing_warning(missing, how=how, others=others) if missing else None
    head = [tag("h1", experiment.name), tag("p", experiment.summary), tag("p", finished, id="about"), warning]
    parts = {
        "head": join(head),
        "contents": join(tag("a", section.title, href=f"#{section.name}") for section in sections),
        "sections": join(section.html() for section in sections),
    }
    return render_static_page("experiment", parts, title=f"{experiment.name}, {profile}", styles=["tables"])


def _missing_warning(missing: Sequence[str], *, how: str, others: Sequence[str]) -> Markup:
    names = ", ".join(missing[:MAX_NAMED])
    if len(missing) > MAX_NAMED:
        names += f" and {len(missing) - MAX_NAMED} more"
    hint = f". There are {'; '.join(others)}; to report them, add the same settings after the name." if others else ""
    return tag("p", f"Not finished: {names}. To finish them: ", tag("code", how), hint, class_="warning")


def _command(name: str, profile: str, overrides: Iterable[str], *, sweep: bool) -> str:
    return shlex.join(["basereward", "sweep" if sweep else "train", name, "--profile", profile, *overrides])


def _compared(experiment: Experiment, contenders: Sequence[Contender]) -> Compared:
    """Compare the cells and ensembles that are finished. The page names the others elsewhere."""
    finished: dict[str, dict[str, str]] = {}
    for contender in contenders:
        for run in contender.trained:
            finished[run.name] = {"name": run.name, "run_id": run.run.run_id, "status": "finished"}
    cells = [cell for cell in experiment.cells if cell.name in finished]
    ensembles = [finished[name] for name in experiment.ensembles if name in finished]
    return compare_cells(cells, [finished[cell.name] for cell in cells], ensembles=ensembles)


def _record(experiment: Experiment, files: Sequence[Path]) -> str | None:
    """Add files to the MLflow run that stands for the experiment, and return its id; None if there is no such run."""
    run = _recording_run(experiment)
    if run is None:
        return None
    record(run, {}, files, folder="report")
    return run.run_id


def _recording_run(experiment: Experiment) -> RunFolder | None:
    """The run whose MLflow record gets the files: the newest sweep with one of the cells, or the run of the only
    cell."""
    hashes = {recipe_sha256(cell.recipe) for cell in experiment.cells}
    for run in list_runs(kind="sweep"):
        if run.name == experiment.name and _mentions(run, hashes):
            return run
    # Several cells without a sweep have no common run.
    if len(hashes) > 1:
        return None
    return next((run for run in list_runs() if run.status["recipe_sha256"] in hashes and run.state == "finished"), None)


def _mentions(sweep: RunFolder, hashes: Iterable[str]) -> bool:
    recipe_text = sweep.recipe_text()
    return any(sha256 in recipe_text for sha256 in hashes)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"nothing can be written to '{folder}': {error.strerror or error}") from error
