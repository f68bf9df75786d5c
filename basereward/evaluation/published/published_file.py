"""One file of `experiments/published`: a table of a paper, and what is known to be wrong in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basereward.errors import DataError, RecipeError, unknown
from basereward.evaluation.published.published_value import METRICS, UNKNOWN, VARIANTS, PublishedValue
from basereward.recipe.checks.hints import HintMismatch, coerce
from basereward.recipe.yaml.files import read_yaml

PAPER = {"title": str, "arxiv": str | None, "table": str, "year": int}
COLUMN = {"benchmark": str, "variant": str | list[str], "metric": str}
COLUMN_MAY = {"note": str, "of": list[str]}
ENTRY = {"rows": list[str], "cells": dict[str, dict[str, Any]], "why": str}
ENTRY_MAY = {"variant": str | list[str]}
CELL_MAY = {"variant": str | list[str], "metric": str, "value": float, "count": list[int]}
FILE = {"paper": dict, "columns": dict[str, dict[str, Any]], "rows": dict[str, list[float | None]]}
FILE_MAY = {
    "note": str,
    "experiment": str | list[str],
    "cells": dict[str, str | list[str]],
    "row_notes": dict[str, str],
    "counts": dict[str, dict[str, list[int]]],
    "corrections": list[dict[str, Any]],
    "recomputed": list[dict[str, Any]],
}


def read_table(file: Path) -> list[PublishedValue]:
    """Every value of a file, row by row: corrected ones in place of printed ones, and recomputed ones beside them.

    Raises:
        DataError: the file is not such a table; the message lists every fault.
    """
    return list(open_table(file).values())


def open_table(file: Path) -> TableFile:
    """The content of a file, checked. Raises as `read_table`."""
    try:
        content = read_yaml(file)
    except RecipeError as error:
        raise DataError(str(error)) from error
    table = TableFile(content)
    table.check_twice(table.values() if not table.faults else ())
    if table.faults:
        raise DataError("\n".join(f"{file}: {fault}" for fault in table.faults))
    return table


@dataclass
class TableFile:
    """A file's content; what is wrong with it is collected in `faults`.

    `counts` and `corrections` are by row and column, as are the entries of `recomputed`.
    """

    content: dict[str, Any]
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shape(self.content, FILE, FILE_MAY, where="the file")
        if self.faults:
            return
        self._shape(self.content["paper"], PAPER, {}, where="paper")
        for name, column in self.content["columns"].items():
            if self._shape(column, COLUMN, COLUMN_MAY, where=f"columns.{name}"):
                self._names(column, column, where=f"columns.{name}")
                for each in column.get("of", []):
                    self._known("column", each, self.content["columns"], where=f"columns.{name}.of")
        for row, printed in self.content["rows"].items():
            self._row(row, printed)
        for section in ("row_notes", "cells"):
            for row in self.content.get(section, {}):
                self._known("row", row, self.content["rows"], where=section)
        if ("cells" in self.content) != ("experiment" in self.content):
            self.faults.append("`experiment` and `cells` stand together: whose cells, and which row is which")
        if not self.faults:
            self.counts = self._counts()
            self.corrections = dict(self._entries("corrections"))
            self.recomputed = list(self._entries("recomputed"))

    def values(self) -> Iterator[PublishedValue]:
        """Of every cell that is not empty."""
        for row in self.content["rows"]:
            for column in self.content["columns"]:
                if self.printed(row, column) is None:
                    continue
                yield from self._value(row, column, self.corrections.get((row, column)))
                for key, change in self.recomputed:
                    if key == (row, column):
                        yield from self._value(row, column, change)

    def check_twice(self, values: Iterable[PublishedValue]) -> None:
        """One metric of one variant has one value per model and table; half of a swap would give it two."""
        seen = set()
        for value in values:
            key = (value.model, value.benchmark, value.variant, value.metric)
            if key in seen and value.variant != UNKNOWN:
                self.faults.append(
                    f"row '{value.model}' has two values for {value.metric} of {value.benchmark} ({value.variant}); "
                    "where columns are swapped, correct both"
                )
            seen.add(key)

    def _value(self, row: str, column: str, change: dict[str, Any] | None) -> Iterator[PublishedValue]:
        claimed, paper = self.content["columns"][column], self.content["paper"]
        told = {**claimed, **(change or {})}
        count = told.get("count") or (self.counts.get((row, column)) if "value" not in told else None)
        printed = self.printed(row, column)
        percent = told.get("value", printed)
        notes = [self.content.get("note"), claimed.get("note"), self.content.get("row_notes", {}).get(row)]
        notes.append(change["why"] if change else None)
        for variant in listed(told["variant"]):
            yield PublishedValue(
                model=row,
                value=count[0] / count[1] if count else percent / 100,
                paper=paper["title"] + (f" (arXiv:{paper['arxiv']})" if paper["arxiv"] else ""),
                table=paper["table"],
                benchmark=told["benchmark"],
                variant=variant,
                metric=told["metric"],
                note=" ".join(note.strip() for note in notes if note) or None,
                corrected=change is not None,
                printed=printed,
                count=(count[0], count[1]) if count else None,
            )

    def _entries(self, section: str) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Row and column of every cell that a section names, with what it says of it."""
        seen: set[tuple[str, str, str]] = set()
        for index, entry in enumerate(self.content.get(section, [])):
            where = f"{section}[{index}]"
            if not self._shape(entry, ENTRY, ENTRY_MAY, where=where):
                continue
            cells = [(row, column, said) for row in entry["rows"] for column, said in entry["cells"].items()]
            for row, column, said in cells:
                if not (self._cell(row, column, where=where) and self._shape(said, {}, CELL_MAY, where=where)):
                    continue
                change = {**{key: entry[key] for key in ENTRY_MAY if key in entry}, **said}
                self._change(change, self.content["columns"][column], where=f"{where}, '{column}' of '{row}'")
                key = (row, column, "" if section == "corrections" else str(sorted(change.items())))
                if key in seen:
                    self.faults.append(f"{where}: '{column}' of '{row}' stands in {section} twice")
                seen.add(key)
                yield (row, column), {**change, "why": entry["why"]}

    def _change(self, change: dict[str, Any], claimed: dict[str, Any], *, where: str) -> None:
        if not any(change[key] != claimed.get(key) for key in change):
            self.faults.append(f"{where}: nothing is changed; allowed: {', '.join(CELL_MAY)}")
        if "value" in change and "count" in change:
            self.faults.append(f"{where}: give value or count, not both")
        if "value" in change:
            self._percent(change["value"], where=where)
        if "count" in change:
            self._count(change["count"], where=where)
        self._names(change, claimed, where=where)

    def _counts(self) -> dict[tuple[str, str], list[int]]:
        counts = {}
        for row, cells in self.content.get("counts", {}).items():
            for column, count in cells.items():
                where = f"counts, '{column}' of '{row}'"
                if self._cell(row, column, where="counts") and self._count(count, where=where):
                    counts[row, column] = count
                    printed, exact = self.printed(row, column), 100 * count[0] / count[1]
                    digits = 1 if round(printed, 1) == printed else 2
                    if abs(exact - printed) > 0.5 * 10**-digits + 1e-9:
                        self.faults.append(
                            f"{where}: {count[0]}/{count[1]} is {exact:.2f}, {printed} is printed; "
                            "a misprint belongs under corrections"
                        )
        return counts

    def _row(self, row: str, printed: list[float | None]) -> None:
        columns = self.content["columns"]
        if len(printed) != len(columns):
            self.faults.append(f"row '{row}' has {len(printed)} values for {len(columns)} columns; write null for none")
        for value in printed:
            if value is not None:
                self._percent(value, where=f"row '{row}'")

    def _cell(self, row: str, column: str, *, where: str) -> bool:
        known = self._known("row", row, self.content["rows"], where=where)
        known &= self._known("column", column, self.content["columns"], where=where)
        if known and self.printed(row, column) is None:
            self.faults.append(f"{where}: '{column}' of '{row}' is empty in the table")
            return False
        return known

    def _names(self, said: Mapping[str, Any], claimed: Mapping[str, Any], *, where: str) -> None:
        benchmark = claimed["benchmark"]
        if not self._known("benchmark", benchmark, VARIANTS, where=where):
            return
        for variant in listed(said.get("variant", [])):
            self._known(f"variant of {benchmark}", variant, (*VARIANTS[benchmark], UNKNOWN), where=where)
        if "metric" in said:
            self._known(f"metric of {benchmark}", said["metric"], METRICS[benchmark], where=where)

    def _shape(self, given: Any, must: Mapping[str, Any], may: Mapping[str, Any], *, where: str) -> bool:
        before, hints = len(self.faults), {**must, **may}
        if not isinstance(given, dict):
            self.faults.append(f"{where}: expected a mapping, {given!r} given")
            return False
        self.faults += [f"{where}: {unknown('key', key, hints)}" for key in given if key not in hints]
        self.faults += [f"{where}: the key '{key}' is missing" for key in must if key not in given]
        for key in given.keys() & hints.keys():
            try:
                given[key] = coerce(given[key], hints[key])
            except HintMismatch as error:
                self.faults.append(f"{where}.{key}: {error}")
        return len(self.faults) == before

    def _known(self, kind: str, given: str, allowed: Iterable[str], *, where: str) -> bool:
        if given in (names := list(allowed)):
            return True
        self.faults.append(f"{where}: {unknown(kind, given, names)}")
        return False

    def _percent(self, value: float, *, where: str) -> None:
        if not 0 <= value <= 100:
            self.faults.append(f"{where}: {value} is no percentage from 0 to 100")

    def _count(self, count: list[int], *, where: str) -> bool:
        if fine := len(count) == 2 and 0 <= count[0] <= count[1] and count[1] > 0:
            return fine
        self.faults.append(f"{where}: a count is [right ones, all], {count} given")
        return False

    def printed(self, row: str, column: str) -> Any:
        """The percentage that stands there; None where there is none."""
        return self.content["rows"][row][list(self.content["columns"]).index(column)]


def listed(names: str | list[str]) -> list[str]:
    """A name by itself as a list of one."""
    return [names] if isinstance(names, str) else names
