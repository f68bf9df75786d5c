"""`basereward report EXPERIMENT`: write the page of an experiment with its figures and numbers, and record them."""

from __future__ import annotations

import html
import re
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from basereward.errors import DataError, format_count
from basereward.evaluation.published.published import every_value
from basereward.evaluation.published.published_table import tables_of
from basereward.evaluation.recording import record
from basereward.evaluation.reports.analyses.best_of_n import best_of_n_section, judge_curves
from basereward.evaluation.reports.drawing import save
from basereward.evaluation.reports.experiment.accuracy import Column, accuracy_rows, best_first, columns
from basereward.evaluation.reports.experiment.benchmark_section import benchmark_rows, benchmarks
from basereward.evaluation.reports.experiment.gather import Contender, TrainedRun, all_results, gather
from basereward.evaluation.reports.experiment.paper_section import paper
from basereward.evaluation.reports.experiment.parts import Section, listed, page_of_sections
from basereward.evaluation.reports.experiment.recipe_section import costs, differences, runs
from basereward.evaluation.reports.experiment.reinforcement.judges import judges
from basereward.evaluation.reports.experiment.reinforcement.policies import policies
from basereward.evaluation.reports.experiment.results_section import learning, results, trust
from basereward.evaluation.reports.experiment.sweep_settings import SweepSettings, describe
from basereward.evaluation.reports.markup import Markup, MarkupChild, tag
from basereward.evaluation.reports.numbers import Row, as_csv
from basereward.io.files import write_atomic
from basereward.io.progress import phase
from basereward.recipe import Experiment, load_experiment, recipe_sha256
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.sweeps.comparison import Compared, compare_cells

# Cells without a finished run that the head of the page names.
MAX_NAMED = 8
# The number of finished cells and the experiment, by which a later page with fewer cells is recognized.
REPORT_MARK = re.compile(r'<header data-report="(\d+) ([^"]*)">')


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
    kept: int | None = None
    """finished cells of an earlier page that was left in place because it has more of them; None: the page is new"""

    @property
    def cells(self) -> int:
        """The number of cells and ensembles."""
        return len(all_results(self.contenders))

    @property
    def finished(self) -> int:
        """The number of cells and ensembles with a finished run."""
        return sum(result.run is not None for result in all_results(self.contenders))

    def as_dict(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        return {
            "experiment": self.experiment.name,
            "overrides": list(self.experiment.overrides),
            "out": str(self.out),
            "figures": list(self.figures),
            "csv": str(self.csv),
            "cells": self.cells,
            "finished": self.finished,
            "run_id": self.recorded,
            "kept": self.kept,
        }


def make_page(
    name: str,
    *,
    profile: str,
    overrides: Sequence[str],
    out: Path,
    folder: Path | None = None,
    others: Sequence[SweepSettings] = (),
) -> ReportPage:
    """Write the page of one experiment under one setting.

    The figures (PNG and PDF) and `numbers.csv` are written beside it. All files are also added to the MLflow run of the
    newest sweep of these cells, or of its only cell. A page of the same experiment that has more finished cells is not
    replaced.

    Args:
        name: of the experiment, or the path of its YAML file.
        profile: the experiment is compiled for.
        overrides: `key=value` changes of the experiment.
        out: the page.
        folder: of figures and numbers; by default a folder beside the page with its name.
        others: further settings under which cells are finished, which the page names.

    Raises:
        RecipeError: the experiment is wrong; nothing is written.
        DataError: the published tables are wrong, or the page cannot be written.
    """
    experiment = load_experiment(name, profile=profile, overrides=overrides)
    with phase(f"reading the runs of {experiment.name}"):
        contenders = gather(experiment)
    contenders = best_first(contenders, columns(contenders))
    # Again, so that tables and figures have the recipes in the same order.
    accuracy = columns(contenders)
    folder = folder or out.with_suffix("")
    page = ReportPage(out, experiment, contenders, accuracy, [], folder / "numbers.csv", None)
    earlier = _finished_of(out, experiment.name)
    if earlier > page.finished:
        return replace(page, kept=earlier)
    how = _command(name, profile, overrides, sweep=len(experiment.cells) > 1 or bool(experiment.ensembles))
    groups = benchmark_rows(contenders, every_value())
    with phase("comparing and drawing"):
        sections = _sections(experiment, contenders, accuracy, groups, how=how)
        _make_folder(folder)
        figures = _save_figures(sections, folder)
    rows = accuracy_rows(accuracy, seeds=True)
    for group in groups:
        rows += group
    write_atomic(page.csv, as_csv(rows))
    write_atomic(out, _document(page, sections, profile=profile, how=how, others=others))
    run_id = _record(experiment, [out, page.csv, *map(Path, figures)])
    return replace(page, figures=figures, recorded=run_id)


def _finished_of(out: Path, name: str) -> int:
    """The finished cells of the page of an experiment that is there already; 0 if there is none."""
    try:
        # The mark is in the head of the page, after the style.
        match = REPORT_MARK.search(out.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        return 0
    if match is None or html.unescape(match[2]) != name:
        return 0
    return int(match[1])


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
        best_of_n_section(judge_curves(contenders)),
        policies(contenders),
        judges(contenders),
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


def _document(
    page: ReportPage, sections: Sequence[Section], *, profile: str, how: str, others: Sequence[SweepSettings]
) -> str:
    experiment = page.experiment
    missing = [result.name for result in all_results(page.contenders) if result.run is None]
    finished = f"{page.finished} of {format_count(page.cells, 'cell')} and ensembles finished"
    if not experiment.ensembles:
        finished = f"{page.finished} of {format_count(page.cells, 'cell')} finished"
    head = [
        tag("h1", experiment.name),
        tag("p", experiment.summary),
        _facts(page, finished, profile=profile, how=how),
        _missing_warning(missing, how=how) if missing else None,
        _other_sweeps(others),
    ]
    title = f"{experiment.name}, {profile}"
    return page_of_sections(head, sections, report=f"{page.finished} {experiment.name}", title=title)


def _facts(page: ReportPage, finished: str, *, profile: str, how: str) -> Markup:
    """What the page is about: the state, the settings, the command, the dates and the commits of its runs."""
    runs: list[TrainedRun] = []
    for contender in page.contenders:
        runs += contender.trained
    overrides: list[MarkupChild] = []
    for override in page.experiment.overrides:
        overrides += [tag("code", override), " "]
    facts: dict[str, Sequence[MarkupChild]] = {
        "cells": [finished],
        "profile": [profile],
        "overrides": overrides or ["none"],
        "command": [tag("code", how)],
        "trained": [_dates(run.created for run in runs)],
        "commit": [", ".join(dict.fromkeys(run.commit for run in runs if run.commit)) or "unknown"],
        "page": [f"written {time.strftime('%Y-%m-%d %H:%M')}"],
    }
    return tag("dl", *(tag("div", tag("dt", key), tag("dd", *value)) for key, value in facts.items()), id="facts")


def _dates(times: Iterable[float]) -> str:
    days = sorted({time.strftime("%Y-%m-%d", time.localtime(seconds)) for seconds in times})
    if not days:
        return "not yet"
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _missing_warning(missing: Sequence[str], *, how: str) -> Markup:
    names = ", ".join(missing[:MAX_NAMED])
    if len(missing) > MAX_NAMED:
        names += f" and {len(missing) - MAX_NAMED} more"
    return tag("p", f"Not finished: {names}. To finish them: ", tag("code", how), class_="warning")


def _other_sweeps(others: Sequence[SweepSettings]) -> Markup | None:
    if not others:
        return None
    lines = listed(describe(settings) for settings in others)
    summary = f"{format_count(len(others), 'other sweep')} of this experiment"
    return tag("details", tag("summary", summary), lines, class_="others")


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
