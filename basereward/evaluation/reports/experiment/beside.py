"""A published table with our values of the same benchmark, variant and metric beside it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from basereward.evaluation.published.published_table import PrintedCell, PublishedTable
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.numbers import is_whole


@dataclass(frozen=True)
class Ours:
    """Our value of a printed cell: a share, the mean over seeds where there are several."""

    values: Sequence[float]
    counts: Sequence[str]  # such as "1027/1250"; none where it is a mean of shares
    variant: str | None

    @property
    def value(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def ours(table: PublishedTable, row: str, contender: Contender) -> dict[str, Ours]:
    """By column; columns that were not evaluated, or whose protocol the paper does not say, are not there."""
    found: dict[str, Ours] = {}
    for column, cell in table.rows[row].items():
        measured = None if column in table.means else _measured(cell, contender)
        if measured is not None:
            found[column] = measured
    # A mean may be of columns that come after it, and of one that is a mean itself.
    waiting = [column for column in table.means if column in table.rows[row]]
    while ready := [column for column in waiting if all(each in found for each in table.means[column])]:
        for column in ready:
            found[column] = _mean([found[each] for each in table.means[column]])
        waiting = [column for column in waiting if column not in ready]
    return found


def not_evaluated(table: PublishedTable, row: str, contender: Contender) -> list[str]:
    """Benchmarks of the row that no run of a recipe was evaluated on, and whose protocol the paper says."""
    asked = {
        cell.benchmark: None for name, cell in table.rows[row].items() if cell.variants and name not in table.means
    }
    have = {each.benchmark for run in contender.trained for each in run.evaluations if is_whole(each)}
    return [benchmark for benchmark in asked if benchmark not in have]


def difference(cell: PrintedCell, found: Ours) -> float | None:
    """Ours less the paper's, in points; where that is misprinted, less what it is. None where that is not known."""
    if not cell.known:
        return None
    return 100 * found.value - (cell.printed if cell.is_percent is None else cell.is_percent)


def joined(table: PublishedTable, contenders: Sequence[Contender]) -> Mapping[str, Contender]:
    """By row, the recipe or ensemble that is to reproduce it."""
    named = {each.name: each for each in contenders}
    return {row: named[name] for row, names in table.joined.items() for name in names if name in named}


def _measured(cell: PrintedCell, contender: Contender) -> Ours | None:
    for variant in cell.variants:
        found = [
            (evaluation, evaluation.variants.get(variant, {}).get(cell.metric))
            for run in contender.trained
            for evaluation in run.evaluations
            if evaluation.benchmark == cell.benchmark and is_whole(evaluation)
        ]
        known = [(each, each.value) for _, each in found if each is not None and each.value is not None]
        if known:
            counts = [
                f"{each.numerator:g}/{each.denominator:g}"
                for each, _ in known
                if each.numerator is not None and each.denominator is not None and each.numerator % 1 == 0
            ]
            return Ours([value for _, value in known], counts, variant)
    return None


def _mean(parts: Sequence[Ours]) -> Ours:
    """Of columns, run by run where all have as many."""
    runs = {len(each.values) for each in parts}
    columns = [each.values if len(runs) == 1 else [each.value] for each in parts]
    values = [statistics.fmean(each) for each in zip(*columns, strict=True)]
    return Ours(values, (), None)
