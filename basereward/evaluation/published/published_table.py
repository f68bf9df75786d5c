"""A table of a paper as it is printed, what each of its numbers is, and which cells of an experiment are its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.published.published_file import TableFile, listed, open_table
from basereward.evaluation.published.published_value import UNKNOWN
from basereward.recipe.yaml.files import experiments_folder


@dataclass(frozen=True)
class PrintedCell:
    """One number of a table.

    `printed` is the percentage that stands there, `is_percent` what should, where that is known to be another one.
    `variants` are the protocols by which it was computed, the likeliest first; those that the column claims where it
    is not known, none where the column does not say.
    """

    printed: float
    benchmark: str
    variants: tuple[str, ...]
    metric: str
    is_percent: float | None = None
    known: bool = True  # whether the number is one of these variants' at all
    why: str | None = None  # it is not what the table claims

    @property
    def misprint(self) -> bool:
        """Whether the number itself is wrong, rather than in the wrong place."""
        return self.is_percent is not None or not self.known


@dataclass(frozen=True)
class PublishedTable:
    """`rows` are cells by row and column; `means` the columns that a column is the mean of; `joined` the cells or
    ensembles of `experiments` that are a row, without their seeds."""

    title: str
    paper: str
    arxiv: str | None
    note: str | None
    columns: tuple[str, ...]
    column_notes: Mapping[str, str]
    row_notes: Mapping[str, str]
    means: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Mapping[str, PrintedCell]]
    experiments: tuple[str, ...]
    joined: Mapping[str, tuple[str, ...]]

    def digits(self, row: str) -> int:
        """After the point, of the numbers of a row: some tables print rows of other papers in fewer."""
        return max((_digits(cell.printed) for cell in self.rows[row].values()), default=0)


def read_published_table(file: Path) -> PublishedTable:
    """The table of a file of `experiments/published`.

    Raises:
        DataError: the file is not such a table; the message lists every fault.
    """
    table = open_table(file)
    content, paper = table.content, table.content["paper"]
    columns: dict[str, dict[str, Any]] = content["columns"]
    return PublishedTable(
        title=paper["table"],
        paper=paper["title"],
        arxiv=paper["arxiv"],
        note=content.get("note"),
        columns=tuple(columns),
        column_notes={name: column["note"] for name, column in columns.items() if "note" in column},
        row_notes=content.get("row_notes", {}),
        means={name: tuple(column["of"]) for name, column in columns.items() if "of" in column},
        rows={
            row: {name: _cell(table, row, name) for name in columns if table.printed(row, name) is not None}
            for row in content["rows"]
        },
        experiments=tuple(listed(content.get("experiment", []))),
        joined={row: tuple(listed(names)) for row, names in content.get("cells", {}).items()},
    )


def tables_of(experiment: str, *, folder: Path | None = None) -> list[PublishedTable]:
    """The tables that an experiment is to reproduce.

    Args:
        experiment: its name, without a folder.
        folder: of the tables; `experiments/published` when None.

    Raises:
        DataError: a file is wrong; the message lists every fault of all of them.
    """
    found: list[PublishedTable] = []
    faults: list[str] = []
    # table_2 comes before table_10.
    for file in sorted((folder or experiments_folder() / "published").glob("*.yaml"), key=_in_order):
        try:
            found.append(read_published_table(file))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return [table for table in found if experiment in [each.rpartition("/")[2] for each in table.experiments]]


def _cell(table: TableFile, row: str, column: str) -> PrintedCell:
    claimed, change = table.content["columns"][column], table.corrections.get((row, column))
    told = {**claimed, **(change or {})}
    variants = listed(told["variant"])
    known = variants != [UNKNOWN] or change is None or "variant" not in change
    if UNKNOWN in variants:
        variants = [name for name in listed(claimed["variant"]) if name != UNKNOWN]
    printed: float = table.printed(row, column)
    count = told.get("count")
    percent: float | None = 100 * count[0] / count[1] if count else told.get("value")
    if percent is not None and abs(percent - printed) <= 0.5 * 10.0 ** -max(_digits(printed), 1):
        percent = None  # what is printed, rounded
    return PrintedCell(
        printed,
        told["benchmark"],
        tuple(variants),
        told["metric"],
        is_percent=percent,
        known=known,
        why=change["why"] if change else None,
    )


def _digits(percent: float) -> int:
    """
    >>> _digits(82.16), _digits(71.2), _digits(83.0)
    (2, 1, 0)
    """
    return len(repr(percent).partition(".")[2].rstrip("0"))


def _in_order(file: Path) -> tuple[str, int]:
    name, _, number = file.stem.rpartition("_")
    return (name, int(number)) if number.isdigit() else (file.stem, 0)
