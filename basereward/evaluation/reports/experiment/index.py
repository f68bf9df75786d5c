"""`basereward report all`: the pages of all experiments, and one that leads to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, DataError
from basereward.evaluation.reports.experiment.make import ReportPage, make_page
from basereward.evaluation.reports.experiment.parts import NONE, cell, note, percent, row
from basereward.evaluation.reports.markup import Markup, join, table, tag
from basereward.evaluation.reports.page import written
from basereward.io.files import write_atomic
from basereward.recipe import Entry, names
from basereward.recipe.table import count

INDEX = "index.html"
HEAD = ("experiment", "finished", "best recipe", "pair accuracy, %", "95 % interval")


def make_index(folder: Path, *, profile: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Writes every experiment's page into `folder`/PROFILE, and `index.html` into `folder`. A page that is there stays
    where nothing of the experiment is finished under these settings.

    An experiment that is wrong on this profile has no page; the index says why.

    Returns:
        `out`, the index; `pages`, of each what `ReportPage.told` says; `refused`, why others have no page.

    Raises:
        DataError: nothing can be written there, or the published tables are wrong.
    """
    pages: dict[str, ReportPage] = {}
    refused: dict[str, str] = {}
    entries = names("experiments")
    for entry in entries:
        out = page_place(folder, entry.name, profile)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            pages[entry.name] = make_page(entry.name, profile=profile, overrides=overrides, out=out, keep_page=True)
        except DataError:
            raise
        except BaseRewardError as error:
            refused[entry.name] = str(error)
    rows = [_row(entry, pages.get(entry.name), folder) for entry in entries]
    told = f"{count(len(pages), 'experiment')} on profile {profile}."
    about = note(
        "The best recipe is the one with most right pairs of the test data, among those that were tested on the groups "
        "that most recipes of the experiment were tested on. Whether it stands against the others is on its page."
    )
    parts = {
        "title": tag("title", f"Experiments, {profile}"),
        "head": join([tag("h1", "Experiments"), tag("p", told, id="about")]),
        "contents": Markup(""),
        "sections": tag("section", table(HEAD, rows, class_="index"), about, *_refusals(refused)),
    }
    out = folder / INDEX
    write_atomic(out, written("experiment", parts, base="tables"))
    return {"out": str(out), "pages": [page.told() for page in pages.values()], "refused": refused}


def page_place(folder: Path, name: str, profile: str) -> Path:
    """Where the page of an experiment on a profile goes; both may be paths of YAML files.

    >>> page_place(Path("reports"), "mixtures/text_ratio", "tiny").as_posix()
    'reports/tiny/mixtures/text_ratio.html'
    """
    named = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return folder / Path(profile).stem / f"{named}.html"


def _refusals(refused: Mapping[str, str]) -> list[Markup]:
    """Why some have no page."""
    return [tag("p", tag("b", f"No page of {name}: "), why, class_="warning") for name, why in refused.items()]


def _row(entry: Entry, made: ReportPage | None, folder: Path) -> Markup:
    summary = tag("small", entry.summary)
    if made is None:
        told = tag("td", "no page, see below", class_="left bad", colspan=len(HEAD) - 1)
        return row(join([entry.name, summary]), [told])
    link = tag("a", entry.name, href=made.out.relative_to(folder).as_posix())
    counts = made.told()
    shares = made.accuracy[0].shares
    done = cell(f"{counts['finished']} / {counts['cells']}")
    if not shares:
        return row(join([link, summary]), [done, *[cell(NONE)] * (len(HEAD) - 2)])
    best, reached = max(shares.items(), key=lambda pair: pair[1].value)
    low, high = reached.interval
    interval = f"{percent(low)}\N{EN DASH}{percent(high)}"
    return row(
        join([link, summary]),
        [done, tag("td", best, class_="left"), cell(tag("b", percent(reached.value))), cell(interval)],
    )
