"""Compare a published table with our values of the same benchmark, protocol variant and metric."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from basereward.evaluation.benchmarks.stand_in_names import stand_in_name
from basereward.evaluation.evaluation_folder import Evaluation, StoredMeasure
from basereward.evaluation.published.published_table import PrintedCell, PublishedTable
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.numbers import is_whole


@dataclass(frozen=True)
class MeasuredCell:
    """Our values for one cell of a published table: shares from 0 to 1, one per seed.

    >>> MeasuredCell([0.6, 0.8], ["60/100", "80/100"], "official").value
    0.7
    """

    values: Sequence[float]
    counts: Sequence[str]
    """such as "1027/1250"; empty if the values are means of shares"""
    variant: str | None
    """the protocol variant; None if the cell is a mean of benchmarks"""

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None if there is one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def measured_cells(
    table: PublishedTable, row: str, contender: Contender, *, stand_ins: bool = False
) -> dict[str, MeasuredCell]:
    """Our values for a row of a published table.

    Args:
        table: the table.
        row: its name.
        contender: the recipe or ensemble that is to reproduce it.
        stand_ins: whether the values are those on stand-ins of the benchmarks, which must not be compared.

    Returns:
        The values by column, without columns that were not evaluated or whose protocol the paper does not state.
    """
    cells: dict[str, MeasuredCell] = {}
    for column, printed in table.rows[row].items():
        measured = None if column in table.means else _measured(printed, contender, stand_ins=stand_ins)
        if measured is not None:
            cells[column] = measured
    _add_means(cells, {column: parts for column, parts in table.means.items() if column in table.rows[row]})
    return cells


def _add_means(cells: dict[str, MeasuredCell], means: Mapping[str, Sequence[str]]) -> None:
    """Add the columns that are means of others, where all of these have values."""
    # A mean may include columns that come after it, and columns that are means themselves. So repeat until no further
    # mean has all its columns.
    pending = list(means)
    while ready := [column for column in pending if cells.keys() >= set(means[column])]:
        for column in ready:
            cells[column] = _mean([cells[part] for part in means[column]])
        pending = [column for column in pending if column not in ready]


def not_evaluated(table: PublishedTable, row: str, contender: Contender, *, stand_ins: bool = False) -> list[str]:
    """The benchmarks of a row that no run of the recipe was evaluated on as a whole; with `stand_ins`, on the stand-in.

    Benchmarks whose protocol the paper does not state are left out: no evaluation could fill their cells.
    """
    return [
        benchmark
        for benchmark in table.comparable_benchmarks(row)
        if not any(_evaluations(contender, benchmark, stand_ins=stand_ins))
    ]


def difference(cell: PrintedCell, measured: MeasuredCell) -> float | None:
    """Our value minus that of the paper, in percentage points.

    A misprint is replaced by the value that should stand there. None if that value is not known.

    >>> printed = PrintedCell(71.0, "rm_bench", ("domain_mean",), "overall")
    >>> round(difference(printed, MeasuredCell([0.72], [], "domain_mean")), 6)
    1.0
    """
    if not cell.known:
        return None
    published = cell.printed if cell.is_percent is None else cell.is_percent
    return 100 * measured.value - published


def joined(table: PublishedTable, contenders: Sequence[Contender]) -> Mapping[str, Contender]:
    """The recipe or ensemble that is to reproduce each row, by row. Rows without one are left out."""
    by_name = {contender.name: contender for contender in contenders}
    rows: dict[str, Contender] = {}
    for row, names in table.joined.items():
        for name in names:
            if name in by_name:
                rows[row] = by_name[name]
    return rows


def _evaluations(contender: Contender, benchmark: str, *, stand_ins: bool) -> Iterator[Evaluation]:
    """The whole evaluations of a benchmark, or those of its stand-in."""
    for trained in contender.trained:
        for evaluation in trained.evaluations:
            # A published value is of the whole benchmark, so that a partial evaluation does not compare with it.
            is_counted = evaluation.partial is None if stand_ins else is_whole(evaluation)
            if is_counted and evaluation.benchmark == (stand_in_name(benchmark) if stand_ins else benchmark):
                yield evaluation


def _measured(cell: PrintedCell, contender: Contender, *, stand_ins: bool) -> MeasuredCell | None:
    # The likeliest variant comes first; one that was not evaluated is followed by the next.
    for variant in cell.variants:
        values: list[float] = []
        counts: list[str] = []
        for evaluation in _evaluations(contender, cell.benchmark, stand_ins=stand_ins):
            measure = evaluation.variants.get(variant, {}).get(cell.metric)
            if measure is not None and measure.value is not None:
                values.append(measure.value)
                counts += _count(measure)
        if values:
            return MeasuredCell(values, counts, variant)
    return None


def _count(measure: StoredMeasure) -> list[str]:
    """Such as ["1027/1250"]; empty if the numerator is not a number of items."""
    if measure.numerator is None or measure.denominator is None or measure.numerator % 1 != 0:
        return []
    return [f"{measure.numerator:g}/{measure.denominator:g}"]


def _mean(parts: Sequence[MeasuredCell]) -> MeasuredCell:
    """The mean of columns: seed by seed if all have as many, otherwise of their means."""
    seeds = {len(part.values) for part in parts}
    columns = [part.values if len(seeds) == 1 else [part.value] for part in parts]
    values = [statistics.fmean(row) for row in zip(*columns, strict=True)]
    return MeasuredCell(values, (), None)
