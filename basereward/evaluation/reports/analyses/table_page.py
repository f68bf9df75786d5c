"""The page of a published table that was reproduced: our values beside those of the paper, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from basereward.errors import DataError, format_count
from basereward.evaluation.evaluation_folder import Evaluation
from basereward.evaluation.published.published import every_value
from basereward.evaluation.published.published_table import PublishedTable
from basereward.evaluation.reports.analyses.best_of_n import best_of_n_section, judge_curves
from basereward.evaluation.reports.drawing import save
from basereward.evaluation.reports.experiment.benchmark_section import benchmark_rows, benchmarks
from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.reports.experiment.paper_section import paper
from basereward.evaluation.reports.experiment.parts import (
    NONE,
    Section,
    cell,
    listed,
    note,
    number,
    page_of_sections,
    row,
    shown_name,
)
from basereward.evaluation.reports.experiment.recipe_section import costs, runs
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag
from basereward.evaluation.reports.numbers import as_csv
from basereward.io.files import write_atomic
from basereward.recipe import Experiment


@dataclass(frozen=True)
class CellHours:
    """GPU hours of the cells of an experiment by the count of the cost model.

    >>> CellHours("h100", {"lr=1": 2.0, "lr=2": 3.0}).total
    5.0
    """

    gpu: str
    by_cell: Mapping[str, float]
    """empty if they cannot be counted"""
    fault: str | None = None
    """why they cannot"""

    @property
    def total(self) -> float | None:
        """The hours of all cells; None if they cannot be counted."""
        return sum(self.by_cell.values()) if self.by_cell else None


@dataclass(frozen=True)
class ReproducedTable:
    """What a page is about.

    Attributes:
        name: of the file of the published table.
        table: the published table.
        experiment: with the cells that reproduce its rows.
        command: that makes the page again and finishes what is missing.
        stand_ins: whether the models are measured on stand-ins of the benchmarks.
        measured: the names of the evaluations that belong to the table.
        hours: of the training.
        faults: what could not be trained or measured, in words.
    """

    name: str
    table: PublishedTable
    experiment: Experiment
    command: str
    stand_ins: bool
    measured: Sequence[str]
    hours: CellHours
    faults: Sequence[str] = ()


def write_table_page(subject: ReproducedTable, *, out: Path, folder: Path) -> list[str]:
    """Write the page, its figures and `numbers.csv`.

    Args:
        subject: the table and its experiment.
        out: the page.
        folder: of the figures and the numbers.

    Returns:
        The paths of the figures and of the numbers.

    Raises:
        DataError: it cannot be written, or the published tables are wrong.
    """
    contenders = [_with(contender, subject.measured) for contender in gather(subject.experiment)]
    groups = benchmark_rows(contenders, every_value())
    sections = [
        paper([subject.table], contenders, stand_ins=subject.stand_ins),
        best_of_n_section(judge_curves(contenders)),
        benchmarks(contenders, groups),
        _hours(contenders, subject.hours),
        costs(contenders),
        runs(contenders, how=subject.command),
    ]
    shown = [section for section in sections if section is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the page cannot be written to '{out}': {error.strerror or error}") from error
    files: list[str] = []
    for section in shown:
        for drawing in section.drawings:
            files += save(drawing.figure, folder, drawing.name, "png", "pdf")
    rows: list[dict[str, Any]] = []
    for group in groups:
        rows += group
    write_atomic(folder / "numbers.csv", as_csv(rows))
    write_atomic(out, _document(subject, contenders, shown))
    return [*files, str(folder / "numbers.csv")]


def _with(contender: Contender, measured: Sequence[str]) -> Contender:
    """The contender with the evaluations of the table alone; a run may have others."""
    trained = []
    for run in contender.trained:
        kept: list[Evaluation] = [entry for entry in run.evaluations if entry.benchmark in measured]
        trained.append(replace(run, evaluations=kept))
    return replace(contender, trained=trained)


def _document(subject: ReproducedTable, contenders: Sequence[Contender], sections: Sequence[Section]) -> str:
    title = f"{subject.table.title}, {subject.table.paper}"
    finished = sum(len(contender.trained) for contender in contenders)
    total = sum(len(contender.results) for contender in contenders)
    and_ensembles = " and ensembles" if subject.experiment.ensembles else ""
    facts: dict[str, Sequence[MarkupChild]] = {
        "experiment": [subject.experiment.name],
        "profile": [str(subject.experiment.profile)],
        "overrides": [tag("code", text) for text in subject.experiment.overrides] or ["none"],
        "cells": [f"{finished} of {format_count(total, 'cell')}{and_ensembles} finished"],
        "measured on": [", ".join(subject.measured)],
        "source": [f"arXiv:{subject.table.arxiv}" if subject.table.arxiv else subject.table.paper],
        "command": [tag("code", subject.command)],
        "page": [f"written {time.strftime('%Y-%m-%d %H:%M')}"],
    }
    head = [
        tag("h1", title),
        tag("p", subject.experiment.summary),
        tag("dl", *(tag("div", tag("dt", key), tag("dd", *value)) for key, value in facts.items()), id="facts"),
        _faults(subject.faults),
    ]
    title = f"{title}, {subject.experiment.profile}"
    return page_of_sections(head, sections, report=f"{finished} {subject.name}", title=title)


def _faults(faults: Sequence[str]) -> Markup | None:
    if not faults:
        return None
    return tag("div", tag("p", "Not all of the table was made:"), listed(faults), class_="warning")


def _hours(contenders: Sequence[Contender], hours: CellHours) -> Section:
    """GPU hours by count, of every recipe with all its seeds."""
    if hours.fault is not None:
        return Section("hours", "GPU hours", [note(f"Not counted: {hours.fault}")])
    lines: list[Markup] = []
    for place, contender in enumerate(contenders):
        counted = [hours.by_cell[result.name] for result in contender.results if result.name in hours.by_cell]
        lines.append(row(shown_name(place, contender.name), [cell(_shown(sum(counted)) if counted else NONE)]))
    lines.append(row("all", [cell(_shown(hours.total or 0.0))]))
    explanation = note(
        f"Hours of one {hours.gpu.upper()} by the count of ",
        tag("code", "basereward check --cost"),
        ": operations of training, validation and test over a share of the GPU's peak. They were not measured. An "
        "ensemble is not trained.",
    )
    header = ["recipe", f"hours of one {hours.gpu.upper()}"]
    return Section("hours", "GPU hours", [table(header, [tag("tbody", *lines)]), explanation])


def _shown(hours: float) -> str:
    """Hours with three significant digits below one.

    >>> _shown(61.04), _shown(0.000123)
    ('61.0', '0.000123')
    """
    return number(hours) if hours >= 1 else f"{hours:.3g}"
