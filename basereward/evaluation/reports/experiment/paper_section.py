"""The section with published tables: rows as printed, and our values below each row that a recipe is to reproduce."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from basereward.evaluation.benchmarks.stand_in_names import stand_in_file
from basereward.evaluation.published.published_table import PrintedCell, PublishedTable
from basereward.evaluation.reports.experiment.gather import Contender, all_results
from basereward.evaluation.reports.experiment.paper_comparison import (
    MeasuredCell,
    difference,
    joined,
    measured_cells,
    not_evaluated,
)
from basereward.evaluation.reports.experiment.parts import (
    NONE,
    Section,
    cell,
    command,
    listed,
    note,
    percent,
    row,
    signed,
)
from basereward.evaluation.reports.markup import Markup, MarkupChild, join, table, tag

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class _Footnotes:
    """The footnotes of one table. Equal texts share a letter."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, text: str | None, *, class_: str = "mark") -> Markup | None:
        """The raised letter that refers to a text; None without a text."""
        if text is None:
            return None
        place = len(self._letters)
        # After z come aa, bb, ...
        letter = LETTERS[place % len(LETTERS)] * (1 + place // len(LETTERS))
        return tag("sup", self._letters.setdefault(text, letter), class_=class_)

    def html(self) -> Markup | None:
        """The list of all texts; None if there are none."""
        entries = [join([tag("sup", letter), " ", text]) for text, letter in self._letters.items()]
        return listed(entries, class_="footnotes")


STAND_INS = (
    "Our values are measured on stand-ins: made rows about scanned digits and numbers in the layout of each benchmark. "
    "They show that every step runs. They are not comparable with the published values, so no difference is given."
)


def paper(
    tables: Sequence[PublishedTable], contenders: Sequence[Contender], *, stand_ins: bool = False
) -> Section | None:
    """Make the section; None if the experiment is to reproduce no published table.

    Args:
        tables: as printed.
        contenders: recipes and ensembles.
        stand_ins: whether our values are those on the stand-ins of the benchmarks, which are shown without differences.
    """
    if not tables:
        return None
    warning = tag("p", STAND_INS, class_="warning") if stand_ins else None
    body: list[MarkupChild] = [warning, note(_explanation(contenders, stand_ins=stand_ins))]
    for published in tables:
        body += _table(published, contenders, stand_ins=stand_ins)
    return Section("paper", "Comparison with the paper", body)


def _explanation(contenders: Sequence[Contender], *, stand_ins: bool) -> str:
    """State how our values differ from those of the paper, so that nobody takes them for a replication."""
    sources: dict[str, None] = {}
    random_weights = True
    for result in all_results(contenders):
        if result.cell:
            sources |= dict.fromkeys(result.cell.recipe.data.sources)
            random_weights = random_weights and bool(result.cell.recipe.model.backbone.make)
    weights = "backbones made here with random weights" if random_weights else "the backbones that the recipes name"
    origin = (
        f"Our values come from {weights}, trained on {', '.join(sources)}; the models of the paper are described in "
        "its text. Accuracy on test data is measured on other data than the paper's tables and cannot be compared with "
        "them. ? marks a column whose protocol the paper does not state."
    )
    if stand_ins:
        return f"{origin} The others are counted by the variant that is given for the column below the table."
    return (
        f"{origin} This section compares only values of the same benchmark, protocol variant and metric. Values of "
        "partial evaluations have no difference."
    )


def _table(published: PublishedTable, contenders: Sequence[Contender], *, stand_ins: bool) -> list[MarkupChild]:
    footnotes = _Footnotes()
    contender_by_row = joined(published, contenders)
    header: list[MarkupChild] = ["percent"]
    for column in published.columns:
        mark = footnotes.mark(published.column_notes.get(column))
        header.append(join([column.replace("_", " "), mark]))
    bodies: list[Markup] = []
    for name in published.rows:
        bodies.append(_row_pair(published, name, contender_by_row.get(name), footnotes, stand_ins=stand_ins))
    source = f"{published.title}, {published.paper}" + (f" (arXiv:{published.arxiv})" if published.arxiv else "")
    return [
        tag("h3", published.title),
        table(header, bodies, caption=source, class_="printed"),
        note(published.note) if published.note else None,
        footnotes.html(),
        *_columns(published),
        _absent_rows(published, contender_by_row),
        _missing_commands(published, contender_by_row, stand_ins=stand_ins),
    ]


def _columns(published: PublishedTable) -> list[MarkupChild]:
    """State how the numbers of each column were computed, without which they cannot be compared with others."""
    lines = [f"{name.replace('_', ' ')}: {column}" for name, column in published.columns.items()]
    return [note("How the paper's numbers are computed, where a footnote does not say otherwise:"), listed(lines)]


def _absent_rows(published: PublishedTable, contender_by_row: Mapping[str, Contender]) -> Markup | None:
    absent = [
        f"{' or '.join(names)} ({name})" for name, names in published.joined.items() if name not in contender_by_row
    ]
    if not absent:
        return None
    where = "" if contender_by_row else " So no value of ours is in this table; they are in the section Benchmarks."
    return note(f"Not among the cells here: {', '.join(absent)}.{where}")


def _row_pair(
    published: PublishedTable, name: str, contender: Contender | None, footnotes: _Footnotes, *, stand_ins: bool
) -> Markup:
    """A row as printed and, if a recipe is to reproduce it, our values and the differences below it."""
    digits = published.digits(name)
    printed = published.rows[name]
    cells = [_printed_cell(printed.get(column), column, footnotes, digits) for column in published.columns]
    title = join([name, footnotes.mark(published.row_notes.get(name))])
    rows = [row(title, cells, class_="paper")]
    if contender is not None:
        measured = measured_cells(published, name, contender, stand_ins=stand_ins)
        ours, differences = _our_rows(contender, measured, printed, columns=published.columns, digits=digits)
        rows += [ours] if stand_ins else [ours, differences]
    return tag("tbody", *rows)


def _printed_cell(printed: PrintedCell | None, column: str, footnotes: _Footnotes, digits: int) -> Markup:
    if printed is None:
        return cell()
    return cell(f"{printed.printed:.{digits}f}", _correction_mark(printed, footnotes, digits), data_column=column)


def _correction_mark(printed: PrintedCell, footnotes: _Footnotes, digits: int) -> Markup | None:
    """A footnote for a number that is wrong (a misprint), or right but under a wrong name."""
    if printed.why is None:
        return None
    sentences: list[str] = []
    if printed.is_percent is not None:
        sentences.append(f"It is {printed.is_percent:.{max(digits, 1)}f}.")
    if not printed.misprint:
        sentences.append(f"It is {printed.metric.replace('_', ' ')} of {', '.join(printed.variants)}.")
    # The reason is a folded text of YAML, with line breaks.
    sentences += printed.why.split()
    text = f"{'Misprint: ' if printed.misprint else ''}{' '.join(sentences)}"
    return footnotes.mark(text, class_="mark misprint" if printed.misprint else "mark")


def _our_rows(
    contender: Contender,
    measured: Mapping[str, MeasuredCell],
    printed: Mapping[str, PrintedCell],
    *,
    columns: Iterable[str],
    digits: int,
) -> tuple[Markup, Markup]:
    """Two rows: our values, and their differences from the printed ones in percentage points."""
    values: list[MarkupChild] = []
    differences: list[MarkupChild] = []
    for column in columns:
        if column in measured and column in printed:
            values.append(_measured_cell(measured[column], column, digits))
            points = difference(printed[column], measured[column])
            differences.append(cell(NONE if points is None else signed(points, digits)))
        else:
            values.append(_empty_cell(printed.get(column), column))
            differences.append(cell())
    ours = row(tag("span", contender.name), values, class_="ours")
    return ours, row("difference", differences, class_="difference")


def _measured_cell(measured: MeasuredCell, column: str, digits: int) -> Markup:
    spread = tag("small", f"± {100 * measured.spread:.{digits}f}") if measured.spread is not None else None
    # The counts of several seeds would not fit.
    counted = tag("small", measured.counts[0]) if len(measured.counts) == 1 else None
    return cell(
        percent(measured.value, digits),
        spread,
        counted,
        data_column=column,
        data_value=f"{measured.value:.8f}",
        title=measured.variant,
    )


def _empty_cell(printed: PrintedCell | None, column: str) -> Markup:
    """A cell without a value of ours: the paper has none, or its protocol is unknown, or we have not evaluated it."""
    if printed is None:
        return cell(None, data_column=column)
    title = None if printed.variants else "the paper does not state the protocol"
    return cell(NONE if printed.variants else "?", data_column=column, title=title)


def _missing_commands(
    published: PublishedTable, contender_by_row: Mapping[str, Contender], *, stand_ins: bool
) -> Markup | None:
    """The commands for evaluations that are missing; None if there are none."""
    # By the name of the recipe, because several rows may have the same one.
    commands_by_recipe: dict[str, list[Markup]] = {}
    for name, contender in contender_by_row.items():
        benchmarks = not_evaluated(published, name, contender, stand_ins=stand_ins)
        if benchmarks and contender.trained:
            files = [stand_in_file(benchmark) if stand_ins else benchmark for benchmark in benchmarks]
            options = " ".join(f"--benchmark {file}" for file in files)
            commands_by_recipe[contender.name] = [
                command(f"basereward eval {run.run.run_id} {options}") for run in contender.trained
            ]
    commands: list[Markup] = []
    for commands_of_recipe in commands_by_recipe.values():
        commands += commands_of_recipe
    if not commands:
        return None
    summary = (
        f"{NONE}: not evaluated. {len(commands)} commands evaluate what is missing; add data=PATH to read a local copy "
        "of the data"
    )
    return tag("details", tag("summary", summary), listed(commands))
