"""Published tables, row by row as printed, with our values below each row that a recipe is to reproduce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from basereward.evaluation.reports.experiment.beside import Ours, difference, joined, not_evaluated, ours
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.experiment.parts import NONE, Section, cell, command, listed, note, percent, row, signed
from basereward.evaluation.reports.markup import MarkupChild, Markup, join, table, tag
from basereward.evaluation.published.published_table import PrintedCell, PublishedTable

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class _Notes:
    """Footnotes of one table: a text that comes again keeps its letter."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def mark(self, text: str | None, *, class_: str = "mark") -> Markup | None:
        """The raised letter of a text."""
        if text is None:
            return None
        place = len(self.texts)
        letter = LETTERS[place % 26] * (1 + place // 26)
        return tag("sup", self.texts.setdefault(text, letter), class_=class_)

    def html(self) -> Markup | None:
        told = (join([tag("sup", letter), " ", text]) for text, letter in self.texts.items())
        return listed(told, class_="footnotes")


def paper(tables: Sequence[PublishedTable], contenders: Sequence[Contender]) -> Section | None:
    """None where no published table is joined to the experiment."""
    if not tables:
        return None
    body: list[MarkupChild] = [note(*_footing(contenders))]
    for each in tables:
        body += _table(each, contenders)
    return Section("paper", "Beside the paper", body)


def _footing(contenders: Sequence[Contender]) -> list[MarkupChild]:
    """What ours are, so that nobody takes them for a repetition of the paper's training."""
    recipes = [result.cell.recipe for each in contenders for result in each.results if result.cell]
    sources = list(dict.fromkeys(source for recipe in recipes for source in recipe.data.sources))
    made = all(recipe.model.backbone.make for recipe in recipes)
    weights = "backbones made here with random weights" if made else "the backbones that the recipes name"
    return [
        f"Ours are {weights}, trained on {', '.join(sources)}; the paper's are what its text says. Accuracy on the "
        "test data of these sources, under Results, is of other data than the paper's tables and does not compare with "
        "them. Only values of the same benchmark, protocol variant and metric stand beside each other here; a column "
        "with ? is of a protocol that the paper does not say. Values in part are of some of a benchmark's items, and "
        "have no difference."
    ]


def _table(printed: PublishedTable, contenders: Sequence[Contender]) -> list[MarkupChild]:
    notes = _Notes()
    mine = joined(printed, contenders)
    head: list[MarkupChild] = [
        "per cent",
        *(join([column.replace("_", " "), notes.mark(printed.column_notes.get(column))]) for column in printed.columns),
    ]
    bodies = [_rows(printed, name, mine.get(name), notes) for name in printed.rows]
    source = f"{printed.title}, {printed.paper}" + (f" (arXiv:{printed.arxiv})" if printed.arxiv else "")
    absent = [f"{' or '.join(names)} ({row})" for row, names in printed.joined.items() if row not in mine]
    gone = f"Not among the cells here: {', '.join(absent)}." if absent else None
    return [
        tag("h3", printed.title),
        table(head, bodies, caption=source, class_="printed"),
        note(printed.note) if printed.note else None,
        notes.html(),
        note(gone) if gone else None,
        *_how(printed, mine),
    ]


def _rows(printed: PublishedTable, name: str, mine: Contender | None, notes: _Notes) -> Markup:
    digits = printed.digits(name)
    cells = [
        cell(f"{found.printed:.{digits}f}", _mark(found, notes, digits), data_column=column)
        if (found := printed.rows[name].get(column))
        else cell()
        for column in printed.columns
    ]
    title = join([name, notes.mark(printed.row_notes.get(name))])
    rows = [row(title, cells, class_="paper")]
    if mine is not None:
        values = ours(printed, name, mine)
        rows += _ours(mine, values, printed.rows[name], columns=printed.columns, digits=digits)
    return tag("tbody", *rows)


def _mark(found: PrintedCell, notes: _Notes, digits: int) -> Markup | None:
    """A misprint is told from a number that stands under a wrong name."""
    if found.why is None:
        return None
    is_ = f"It is {found.is_percent:.{max(digits, 1)}f}. " if found.is_percent is not None else ""
    moved = "" if found.misprint else f"It is {found.metric.replace('_', ' ')} of {', '.join(found.variants)}. "
    text = f"{'Misprint: ' if found.misprint else ''}{is_}{moved}{' '.join(found.why.split())}"
    return notes.mark(text, class_="mark misprint" if found.misprint else "mark")


def _ours(
    mine: Contender,
    values: Mapping[str, Ours],
    printed: Mapping[str, PrintedCell],
    *,
    columns: Iterable[str],
    digits: int,
) -> list[Markup]:
    """Two rows below the printed one: our values, and how far they are from it."""
    own: list[MarkupChild] = []
    less: list[MarkupChild] = []
    for column in columns:
        found = values.get(column)
        if found is None or column not in printed:
            own.append(_none(printed.get(column), column))
            less.append(cell())
            continue
        spread = tag("small", f"± {100 * found.spread:.{digits}f}") if found.spread is not None else None
        count = tag("small", found.counts[0]) if len(found.counts) == 1 else None
        own.append(
            cell(
                percent(found.value, digits),
                spread,
                count,
                data_column=column,
                data_value=f"{found.value:.8f}",
                title=found.variant,
            )
        )
        points = difference(printed[column], found)
        less.append(cell(NONE if points is None else signed(points, digits)))
    return [row(tag("span", mine.name), own, class_="ours"), row("difference", less, class_="difference")]


def _none(printed: PrintedCell | None, column: str) -> Markup:
    """No value of ours: there is none of the paper's, its protocol is not known, or ours is not evaluated."""
    if printed is None:
        return cell(None, data_column=column)
    title = None if printed.variants else "the paper does not say by which protocol"
    return cell(NONE if printed.variants else "?", data_column=column, title=title)


def _how(printed: PublishedTable, mine: Mapping[str, Contender]) -> list[MarkupChild]:
    """Commands for what is not evaluated yet."""
    asked = {
        each.name: (each, not_evaluated(printed, name, each))
        for name, each in mine.items()
        if each.trained and not_evaluated(printed, name, each)
    }
    if not asked:
        return []
    commands = [
        command(f"basereward eval {run.run.run_id} {' '.join(f'--benchmark {name}' for name in benchmarks)}")
        for each, benchmarks in asked.values()
        for run in each.trained
    ]
    head = f"{NONE}: not evaluated. {len(commands)} commands evaluate what is missing; copies of the data by data=PATH"
    return [tag("details", tag("summary", head), listed(commands))]
