"""Write the pages of sweeps, each into a folder, and the indexes of the sweeps and of all experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, DataError, format_count
from basereward.evaluation.reports.experiment.make import ReportPage, make_page
from basereward.evaluation.reports.experiment.parts import NONE, cell, note, percent, row
from basereward.evaluation.reports.experiment.sweep_settings import (
    SweepSettings,
    choose,
    find_settings,
    page_folder,
)
from basereward.evaluation.reports.markup import Markup, escape, join, table, tag
from basereward.evaluation.reports.page import render_static_page
from basereward.io.files import write_atomic
from basereward.io.progress import track
from basereward.recipe import Entry, load_experiment, names

INDEX = "index.html"
PAGE = "report.html"
HEADER = ("experiment", "pair accuracy, %", "best recipe", "sweep", "finished")
SWEEPS_HEADER = ("sweep", "finished cells", "trained", "page, or the command that makes it")


@dataclass(frozen=True)
class SweepReport:
    """The page of one sweep of an experiment, and the sweeps of the experiment that it is not about."""

    page: ReportPage
    settings: SweepSettings
    others: Sequence[SweepSettings]
    index: Path | None
    """of the sweeps of the experiment; None if the page was written elsewhere"""

    def as_dict(self) -> dict[str, Any]:
        """What the command prints with `--json`."""
        further = {"sweep": self.settings.name, "index": str(self.index) if self.index else None}
        return self.page.as_dict() | further | {"others": [one.as_dict() for one in self.others]}


def report_sweep(
    name: str, *, root: Path, profile: str, overrides: Sequence[str], sweep: str | None = None, out: Path | None = None
) -> SweepReport:
    """Write the page of one sweep of an experiment, by default of the newest complete one.

    Args:
        name: of the experiment, or the path of its YAML file.
        root: the folder of all pages: the page becomes `root`/PROFILE/EXPERIMENT/SWEEP/report.html, and
            `root`/PROFILE/EXPERIMENT/index.html lists the sweeps.
        profile: the experiment is compiled for.
        overrides: those of the sweep; without any, the sweep is chosen among those that have finished runs.
        sweep: the name of a sweep, or its id.
        out: the page, in place of the default; no index is written then.

    Raises:
        RecipeError: the experiment is wrong.
        DataError: there is no such sweep, the published tables are wrong, or the page cannot be written.
    """
    found = find_settings(name, profile=profile)
    chosen = _with_overrides(name, profile, overrides, found) if overrides else choose(found, sweep=sweep)
    others = [settings for settings in found if settings is not chosen and settings.finished]
    folder = None if out else page_folder(root, chosen)
    page = make_page(
        name,
        profile=profile,
        overrides=chosen.experiment.overrides,
        out=out or page_folder(root, chosen) / PAGE,
        folder=folder,
        others=others,
    )
    index = None
    if folder is not None:
        index = folder.parent / INDEX
        write_atomic(index, _sweeps_page(chosen, others, index))
    return SweepReport(page, chosen, others, index)


def _with_overrides(name: str, profile: str, overrides: Sequence[str], found: Sequence[SweepSettings]) -> SweepSettings:
    """The settings with these overrides; new ones if no run is finished under them."""
    experiment = load_experiment(name, profile=profile, overrides=overrides)
    cells = [cell.recipe for cell in experiment.cells]
    for settings in found:
        if [cell.recipe for cell in settings.experiment.cells] == cells:
            return settings
    return SweepSettings(name, experiment)


def _sweeps_page(chosen: SweepSettings, others: Sequence[SweepSettings], index: Path) -> str:
    rows = [_sweep_row(settings, index) for settings in sorted([chosen, *others], key=lambda one: -one.newest)]
    experiment = chosen.experiment
    parts = {
        "report": escape(f"0 {experiment.name}"),
        "head": join([tag("h1", f"{experiment.name}: sweeps"), tag("p", experiment.summary)]),
        "contents": Markup(""),
        "sections": tag("section", table(SWEEPS_HEADER, [tag("tbody", *rows)], class_="sortable index")),
    }
    title = f"{experiment.name}, {experiment.profile}: sweeps"
    return render_static_page("experiment", parts, title=title, styles=["tables"])


def _sweep_row(settings: SweepSettings, index: Path) -> Markup:
    page = index.parent / settings.name / PAGE
    # Relative, so that the folder can be moved or served.
    link = tag("a", "page", href=page.relative_to(index.parent).as_posix()) if page.is_file() else None
    finished = cell(f"{settings.finished} / {len(settings.experiment.cells)}", data_sort=settings.finished)
    name = ", ".join(settings.experiment.overrides) or settings.name
    return row(name, [finished, cell(settings.date or NONE), tag("td", link or tag("code", settings.report_command))])


def make_index(folder: Path, *, profile: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Write a page of every experiment into `folder`, as `report_sweep` does, and `index.html` on top.

    An experiment that cannot be compiled for the profile has no page; the index states the reason.

    Args:
        folder: of the index.
        profile: the experiments are compiled for.
        overrides: `key=value` changes of every experiment.

    Returns:
        `out`, the index; `pages`, what `SweepReport.as_dict` gives of each; `refused`, experiment -> reason.

    Raises:
        DataError: a file cannot be written, or the published tables are wrong.
    """
    reports: dict[str, SweepReport] = {}
    refused: dict[str, str] = {}
    entries = names("experiments")
    for entry in track(entries, "writing pages", unit="experiments"):
        try:
            reports[entry.name] = report_sweep(entry.name, root=folder, profile=profile, overrides=overrides)
        except DataError:
            # This is no fault of one experiment: every other page would fail in the same way.
            raise
        except BaseRewardError as error:
            refused[entry.name] = str(error)
    out = folder / INDEX
    write_atomic(out, _index_page(entries, reports, refused, folder=folder, profile=profile))
    return {"out": str(out), "pages": [report.as_dict() for report in reports.values()], "refused": refused}


def _index_page(
    entries: Sequence[Entry],
    reports: Mapping[str, SweepReport],
    refused: Mapping[str, str],
    *,
    folder: Path,
    profile: str,
) -> str:
    rows = [_row(entry, reports.get(entry.name), folder) for entry in entries]
    about = tag("p", f"{format_count(len(reports), 'experiment')} on profile {profile}.", id="about")
    explanation = note(
        "The best recipe has the most right pairs of the test data, among the recipes that were tested on the same "
        "groups as most recipes of the experiment. Its page says whether the difference to the others is significant."
    )
    warnings = [tag("p", tag("b", f"No page of {name}: "), why, class_="warning") for name, why in refused.items()]
    parts = {
        "report": escape(f"0 {INDEX}"),
        "head": join([tag("h1", "Experiments"), about]),
        "contents": Markup(""),
        "sections": tag(
            "section", table(HEADER, [tag("tbody", *rows)], class_="sortable index"), explanation, *warnings
        ),
    }
    return render_static_page("experiment", parts, title=f"Experiments, {profile}", styles=["tables"])


def _row(entry: Entry, report: SweepReport | None, folder: Path) -> Markup:
    summary = tag("small", entry.summary)
    if report is None:
        missing = tag("td", "no page, see below", class_="left bad", colspan=len(HEADER) - 1)
        return row(join([entry.name, summary]), [missing])
    page = report.page
    # Relative, so that the folder can be moved or served.
    link = tag("a", entry.name, href=page.out.relative_to(folder).as_posix())
    name = join([link, summary])
    further = f"{format_count(len(report.others), 'other sweep')}" if report.others else None
    assert report.index is not None
    sweeps = tag("small", tag("a", further, href=report.index.relative_to(folder).as_posix())) if further else None
    sweep = tag("td", report.settings.name, sweeps, class_="left")
    finished = cell(f"{page.finished} / {page.cells}", data_sort=page.finished)
    shares = page.accuracy[0].shares
    if not shares:
        return row(name, [cell(NONE), cell(NONE, class_="left"), sweep, finished])
    best, accuracy = max(shares.items(), key=lambda item: item[1].value)
    low, high = accuracy.interval
    interval = tag("small", f"{percent(low)}\N{EN DASH}{percent(high)}")
    value = cell(tag("b", percent(accuracy.value)), interval, data_sort=accuracy.value)
    return row(name, [value, tag("td", best, class_="left"), sweep, finished])
