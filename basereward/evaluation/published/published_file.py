"""Read and check a file of `experiments/published`: a table of a paper, and its known errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basereward.errors import DataError, RecipeError, unknown
from basereward.evaluation.published.published_value import METRICS, UNKNOWN, VARIANTS, PublishedValue
from basereward.recipe.checks.hints import HintMismatch, coerce
from basereward.recipe.yaml.files import read_yaml

# Keys and their types; those of a name with MAY are optional.
PAPER = {"title": str, "arxiv": str | None, "table": str, "year": int}
COLUMN = {"benchmark": str, "variant": str | list[str], "metric": str}
COLUMN_MAY = {"note": str, "of": list[str]}
ENTRY = {"rows": list[str], "cells": dict[str, dict[str, Any]], "why": str}
ENTRY_MAY = {"variant": str | list[str]}
CELL_MAY = {"variant": str | list[str], "metric": str, "value": float, "count": list[int]}
FILE = {"paper": dict, "columns": dict[str, dict[str, Any]], "rows": dict[str, list[float | None]]}
FILE_MAY = {
    "note": str,
    "benchmarks": list[str],
    "experiment": str | list[str],
    "cells": dict[str, str | list[str]],
    "row_notes": dict[str, str],
    "counts": dict[str, dict[str, list[int]]],
    "corrections": list[dict[str, Any]],
    "recomputed": list[dict[str, Any]],
}
# Percentage points that a difference of two rounded numbers may be off.
ROUNDING_ERROR = 1e-9

CellKey = tuple[str, str]
"""(row, column)"""
Change = dict[str, Any]
"""What an entry of `corrections` or `recomputed` states about a cell."""


def read_table(file: Path) -> list[PublishedValue]:
    """Read the values of a file, row by row, with corrections applied. Recomputed values follow those of their cell.

    Raises:
        DataError: the file is not a valid table; the message lists every fault.

    >>> from basereward.recipe.yaml.files import shipped_experiments
    >>> file = sorted((shipped_experiments() / "published").glob("*.yaml"))[0]
    >>> all(0 <= value.value <= 1 for value in read_table(file))
    True
    """
    return list(open_table(file).values())


def open_table(file: Path) -> TableFile:
    """Read and check a file.

    Raises:
        DataError: the file is not a valid table; the message lists every fault.

    >>> from basereward.recipe.yaml.files import shipped_experiments
    >>> file = sorted((shipped_experiments() / "published").glob("*.yaml"))[0]
    >>> open_table(file).faults
    []
    """
    try:
        content = read_yaml(file)
    except RecipeError as error:
        raise DataError(str(error)) from error
    table = TableFile(content)
    # Values can be computed only from a table without other faults.
    table.check_distinct(table.values() if not table.faults else ())
    if table.faults:
        raise DataError("\n".join(f"{file}: {fault}" for fault in table.faults))
    return table


@dataclass
class TableFile:
    """The content of a file. What is wrong with it is collected in `faults`.

    If there are no faults, `counts` has the numbers of items and `corrections` the corrections, both by row and column.
    `recomputed` lists further values of cells.

    >>> TableFile({}).faults[:2]
    ["the file: the key 'paper' is missing", "the file: the key 'columns' is missing"]
    """

    content: dict[str, Any]
    faults: list[str] = field(default_factory=list)
    counts: dict[CellKey, list[int]] = field(default_factory=dict, init=False)
    corrections: dict[CellKey, Change] = field(default_factory=dict, init=False)
    recomputed: list[tuple[CellKey, Change]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._check_keys(self.content, FILE, FILE_MAY, where="the file")
        # The further checks need these keys.
        if self.faults:
            return
        self._check_keys(self.content["paper"], PAPER, {}, where="paper")
        for name, column in self.content["columns"].items():
            self._check_column(name, column)
        for row, printed in self.content["rows"].items():
            self._check_row(row, printed)
        for benchmark in self.content.get("benchmarks", []):
            self._check_known("benchmark", benchmark, VARIANTS, where="benchmarks")
        for section in ("row_notes", "cells"):
            for row in self.content.get(section, {}):
                self._check_known("row", row, self.content["rows"], where=section)
        if ("cells" in self.content) != ("experiment" in self.content):
            self.faults.append(
                "`experiment` and `cells` need each other: an experiment, and which of its cells is which row"
            )
        if not self.faults:
            self.counts = self._read_counts()
            self.corrections = dict(self._entries("corrections"))
            self.recomputed = list(self._entries("recomputed"))

    def values(self) -> Iterator[PublishedValue]:
        """The values of all cells that are not empty."""
        for row in self.content["rows"]:
            for column in self.content["columns"]:
                if self.printed(row, column) is None:
                    continue
                yield from self._cell_values(row, column, self.corrections.get((row, column)))
                for key, change in self.recomputed:
                    if key == (row, column):
                        yield from self._cell_values(row, column, change)

    def check_distinct(self, values: Iterable[PublishedValue]) -> None:
        """Check that a model has one value per variant and metric of a benchmark.

        It has two if only one of two swapped columns was corrected.
        """
        seen = set()
        for value in values:
            key = (value.model, value.benchmark, value.variant, value.metric)
            if key in seen and value.variant != UNKNOWN:
                self.faults.append(
                    f"row '{value.model}' has two values for {value.metric} of {value.benchmark} ({value.variant}); "
                    "where columns are swapped, correct both"
                )
            seen.add(key)

    def printed(self, row: str, column: str) -> Any:
        """The printed percentage of a cell; None if the cell is empty."""
        return self.content["rows"][row][list(self.content["columns"]).index(column)]

    def _cell_values(self, row: str, column: str, change: Change | None) -> Iterator[PublishedValue]:
        """One value per variant under which a cell was computed."""
        stated, paper = self.content["columns"][column], self.content["paper"]
        actual = {**stated, **(change or {})}
        count = actual.get("count")
        # A count belongs to the printed value, and not to a corrected one.
        if count is None and "value" not in actual:
            count = self.counts.get((row, column))
        printed = self.printed(row, column)
        for variant in listed(actual["variant"]):
            yield PublishedValue(
                model=row,
                value=count[0] / count[1] if count else actual.get("value", printed) / 100,
                paper=paper["title"] + (f" (arXiv:{paper['arxiv']})" if paper["arxiv"] else ""),
                table=paper["table"],
                benchmark=actual["benchmark"],
                variant=variant,
                metric=actual["metric"],
                note=self._note(row, stated, change),
                corrected=change is not None,
                printed=printed,
                count=(count[0], count[1]) if count else None,
            )

    def _note(self, row: str, stated: Mapping[str, Any], change: Change | None) -> str | None:
        notes = [
            self.content.get("note"),
            stated.get("note"),
            self.content.get("row_notes", {}).get(row),
            change["why"] if change else None,
        ]
        return " ".join(note.strip() for note in notes if note) or None

    def _entries(self, section: str) -> Iterator[tuple[CellKey, Change]]:
        """The cells that a section names, with what it states about each."""
        seen: set[tuple[str, str, str]] = set()
        for index, entry in enumerate(self.content.get(section, [])):
            where = f"{section}[{index}]"
            if not self._check_keys(entry, ENTRY, ENTRY_MAY, where=where):
                continue
            for (row, column), change in self._entry_changes(entry, where=where):
                # A cell has one correction, and may be recomputed under several variants.
                key = (row, column, "" if section == "corrections" else str(sorted(change.items())))
                if key in seen:
                    self.faults.append(f"{where}: '{column}' of '{row}' appears in {section} twice")
                seen.add(key)
                yield (row, column), {**change, "why": entry["why"]}

    def _entry_changes(self, entry: dict[str, Any], *, where: str) -> Iterator[tuple[CellKey, Change]]:
        """The cells of one entry that exist, each with what the entry states about it."""
        of_all_cells = {name: entry[name] for name in ENTRY_MAY if name in entry}
        for row in entry["rows"]:
            for column, cell_change in entry["cells"].items():
                known = self._check_cell(row, column, where=where)
                if not (known and self._check_keys(cell_change, {}, CELL_MAY, where=where)):
                    continue
                # What an entry states for one cell replaces what it states for all.
                change = {**of_all_cells, **cell_change}
                stated = self.content["columns"][column]
                self._check_change(change, stated, where=f"{where}, '{column}' of '{row}'")
                yield (row, column), change

    def _read_counts(self) -> dict[CellKey, list[int]]:
        counts: dict[CellKey, list[int]] = {}
        for row, cells in self.content.get("counts", {}).items():
            for column, count in cells.items():
                where = f"counts, '{column}' of '{row}'"
                if self._check_cell(row, column, where="counts") and self._check_count(count, where=where):
                    counts[row, column] = count
                    self._check_printed(count, self.printed(row, column), where=where)
        return counts

    def _check_column(self, name: str, column: Any) -> None:
        where = f"columns.{name}"
        if self._check_keys(column, COLUMN, COLUMN_MAY, where=where):
            self._check_names(column, column, where=where)
            for part in column.get("of", []):
                self._check_known("column", part, self.content["columns"], where=f"{where}.of")

    def _check_change(self, change: Change, stated: dict[str, Any], *, where: str) -> None:
        if not any(change[key] != stated.get(key) for key in change):
            self.faults.append(f"{where}: nothing is changed; allowed: {', '.join(CELL_MAY)}")
        if "value" in change and "count" in change:
            self.faults.append(f"{where}: give value or count, not both")
        if "value" in change:
            self._check_percent(change["value"], where=where)
        if "count" in change:
            self._check_count(change["count"], where=where)
        self._check_names(change, stated, where=where)

    def _check_printed(self, count: list[int], printed: float, *, where: str) -> None:
        """Check that a count, rounded as the table rounds, is the printed percentage."""
        exact = 100 * count[0] / count[1]
        digits = 1 if round(printed, 1) == printed else 2
        if abs(exact - printed) > 0.5 * 10**-digits + ROUNDING_ERROR:
            self.faults.append(
                f"{where}: {count[0]}/{count[1]} is {exact:.2f}, {printed} is printed; "
                "a misprint belongs under corrections"
            )

    def _check_row(self, row: str, printed: list[float | None]) -> None:
        columns = self.content["columns"]
        if len(printed) != len(columns):
            self.faults.append(f"row '{row}' has {len(printed)} values for {len(columns)} columns; write null for none")
        for value in printed:
            if value is not None:
                self._check_percent(value, where=f"row '{row}'")

    def _check_cell(self, row: str, column: str, *, where: str) -> bool:
        # Both are checked, so that one message names both faults.
        known = self._check_known("row", row, self.content["rows"], where=where)
        known &= self._check_known("column", column, self.content["columns"], where=where)
        if known and self.printed(row, column) is None:
            self.faults.append(f"{where}: '{column}' of '{row}' is empty in the table")
            return False
        return known

    def _check_names(self, change: Mapping[str, Any], stated: Mapping[str, Any], *, where: str) -> None:
        """Check the names of variants and metric in a change against the benchmark of its column."""
        benchmark = stated["benchmark"]
        if not self._check_known("benchmark", benchmark, VARIANTS, where=where):
            return
        for variant in listed(change.get("variant", [])):
            self._check_known(f"variant of {benchmark}", variant, (*VARIANTS[benchmark], UNKNOWN), where=where)
        if "metric" in change:
            self._check_known(f"metric of {benchmark}", change["metric"], METRICS[benchmark], where=where)

    def _check_keys(self, node: Any, required: Mapping[str, Any], optional: Mapping[str, Any], *, where: str) -> bool:
        """Check the keys of a mapping, and convert its values to their types (such as 71 to 71.0)."""
        before, hints = len(self.faults), {**required, **optional}
        if not isinstance(node, dict):
            self.faults.append(f"{where}: expected a mapping, {node!r} given")
            return False
        self.faults += [f"{where}: {unknown('key', key, hints)}" for key in node if key not in hints]
        self.faults += [f"{where}: the key '{key}' is missing" for key in required if key not in node]
        for key in node.keys() & hints.keys():
            try:
                node[key] = coerce(node[key], hints[key])
            except HintMismatch as error:
                self.faults.append(f"{where}.{key}: {error}")
        return len(self.faults) == before

    def _check_known(self, kind: str, name: str, allowed: Iterable[str], *, where: str) -> bool:
        names = list(allowed)
        if name in names:
            return True
        self.faults.append(f"{where}: {unknown(kind, name, names)}")
        return False

    def _check_percent(self, value: float, *, where: str) -> None:
        if not 0 <= value <= 100:
            self.faults.append(f"{where}: {value} is not a percentage from 0 to 100")

    def _check_count(self, count: list[int], *, where: str) -> bool:
        if len(count) == 2 and 0 <= count[0] <= count[1] and count[1] > 0:
            return True
        self.faults.append(f"{where}: a count is [right, all] items, {count} given")
        return False


def listed(names: str | list[str]) -> list[str]:
    """Wrap a single name in a list.

    >>> listed("official"), listed(["official", "r1_reward"])
    (['official'], ['official', 'r1_reward'])
    """
    return [names] if isinstance(names, str) else names
