"""`basereward report all`: write the pages of all experiments, and an index of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, DataError, format_count
from basereward.evaluation.reports.experiment.make import ReportPage, make_page
from basereward.evaluation.reports.experiment.parts import NONE, cell, note, percent, row
from basereward.evaluation.reports.markup import Markup, join, table, tag
from basereward.evaluation.reports.page import render_static_page
from basereward.io.files import write_atomic
from basereward.io.progress import track
from basereward.recipe import Entry, names

INDEX = "index.html"
HEADER = ("experiment", "finished", "best recipe", "pair accuracy, %", "95 % interval")


def make_index(folder: Path, *, profile: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Write the page of every experiment into `folder`/PROFILE, and `index.html` into `folder`.

    A page that is there already stays if no run of the experiment is finished under these settings. An experiment that
    cannot be compiled for the profile has no page; the index states the reason.

    Args:
        folder: of the index.
        profile: the experiments are compiled for.
        overrides: `key=value` changes of every experiment.

    Returns:
        `out`, the index; `pages`, what `ReportPage.as_dict` gives of each; `refused`, experiment -> reason.

    Raises:
        DataError: a file cannot be written, or the published tables are wrong.
    """
    pages: dict[str, ReportPage] = {}
    refused: dict[str, str] = {}
    entries = names("experiments")
    for entry in track(entries, "writing pages", unit="experiments"):
        out = page_place(folder, entry.name, profile)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            pages[entry.name] = make_page(entry.name, profile=profile, overrides=overrides, out=out, keep_page=True)
        except DataError:
            # This is no fault of one experiment: every other page would fail in the same way.
            raise
        except BaseRewardError as error:
            refused[entry.name] = str(error)
    out = folder / INDEX
    write_atomic(out, _index_page(entries, pages, refused, folder=folder, profile=profile))
    return {"out": str(out), "pages": [page.as_dict() for page in pages.values()], "refused": refused}


def page_place(folder: Path, name: str, profile: str) -> Path:
    """Choose the path of an experiment's page.

    Args:
        folder: of the index.
        name: of the experiment, or the path of its YAML file.
        profile: its name, or the path of its YAML file.

    >>> page_place(Path("reports"), "mixtures/text_ratio", "tiny").as_posix()
    'reports/tiny/mixtures/text_ratio.html'
    """
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return folder / Path(profile).stem / f"{stem}.html"


def _index_page(
    entries: Sequence[Entry],
    pages: Mapping[str, ReportPage],
    refused: Mapping[str, str],
    *,
    folder: Path,
    profile: str,
) -> str:
    rows = [_row(entry, pages.get(entry.name), folder) for entry in entries]
    about = tag("p", f"{format_count(len(pages), 'experiment')} on profile {profile}.", id="about")
    explanation = note(
        "The best recipe has the most right pairs of the test data, among the recipes that were tested on the same "
        "groups as most recipes of the experiment. Its page says whether the difference to the others is significant."
    )
    warnings = [tag("p", tag("b", f"No page of {name}: "), why, class_="warning") for name, why in refused.items()]
    parts = {
        "head": join([tag("h1", "Experiments"), about]),
        "contents": Markup(""),
        "sections": tag("section", table(HEADER, rows, class_="index"), explanation, *warnings),
    }
    return render_static_page("experiment", parts, title=f"Experiments, {profile}", styles=["tables"])


def _row(entry: Entry, page: ReportPage | None, folder: Path) -> Markup:
    summary = tag("small", entry.summary)
    if page is None:
        missing = tag("td", "no page, see below", class_="left bad", colspan=len(HEADER) - 1)
        return row(join([entry.name, summary]), [missing])
    # Relative, so that the folder can be moved or served.
    link = tag("a", entry.name, href=page.out.relative_to(folder).as_posix())
    name = join([link, summary])
    counts = page.as_dict()
    finished = cell(f"{counts['finished']} / {counts['cells']}")
    shares = page.accuracy[0].shares
    if not shares:
        return row(name, [finished, *[cell(NONE)] * (len(HEADER) - 2)])
    best, accuracy = max(shares.items(), key=lambda item: item[1].value)
    low, high = accuracy.interval
    interval = cell(f"{percent(low)}\N{EN DASH}{percent(high)}")
    return row(name, [finished, tag("td", best, class_="left"), cell(tag("b", percent(accuracy.value))), interval])
