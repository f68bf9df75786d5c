"""A table of a paper as printed, the meaning of each number, and the cells of an experiment that reproduce its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import DataError, unknown
from basereward.evaluation.published.published_file import TableFile, listed, open_table
from basereward.evaluation.published.published_value import MEAN_OF_BENCHMARKS, UNKNOWN
from basereward.recipe.yaml.files import experiments_folders, yaml_files


@dataclass(frozen=True)
class PrintedCell:
    """One number of a table.

    >>> PrintedCell(71.2, "rm_bench", ("domain_mean",), "overall", is_percent=72.1).misprint
    True
    """

    printed: float
    """the percentage in the table"""
    benchmark: str
    variants: tuple[str, ...]
    """the protocol variants by which it may have been computed, the likeliest first; empty if the paper does not say"""
    metric: str
    is_percent: float | None = None
    """the right percentage, if the printed one is known to be wrong"""
    known: bool = True
    """whether the number is of one of these variants at all"""
    why: str | None = None
    """the reason why the number is not what the table states"""

    @property
    def misprint(self) -> bool:
        """Whether the number itself is wrong, and not just in a wrong column."""
        return self.is_percent is not None or not self.known


@dataclass(frozen=True)
class PrintedColumn:
    """What a table, or the arithmetic of its rows, says about the numbers of a column; cells may be corrected.

    >>> str(PrintedColumn("rm_bench", ("domain_mean", "row_pooled"), "hard"))
    'hard of rm_bench, variant domain_mean or row_pooled'
    >>> str(PrintedColumn("mean_of_benchmarks", ("two_columns",), "text", means=("rewardbench", "rm_bench")))
    'the mean of rewardbench, rm_bench'
    """

    benchmark: str
    variants: tuple[str, ...]
    metric: str
    means: tuple[str, ...] = ()
    """the columns of which it is the mean"""

    def __str__(self) -> str:
        if self.means:
            return f"the mean of {', '.join(self.means)}"
        what = "a mean of benchmarks" if self.benchmark == MEAN_OF_BENCHMARKS else f"{self.metric} of {self.benchmark}"
        return f"{what}, variant {' or '.join(self.variants)}"


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    >>> table = tables_of("head_depth")[0]
    >>> table.digits(next(iter(table.rows))) >= 1
    True
    """

    title: str
    paper: str
    arxiv: str | None
    note: str | None
    columns: Mapping[str, PrintedColumn]
    column_notes: Mapping[str, str]
    row_notes: Mapping[str, str]
    rows: Mapping[str, Mapping[str, PrintedCell]]
    """row -> column -> cell"""
    experiments: tuple[str, ...]
    """experiments that reproduce the table"""
    joined: Mapping[str, tuple[str, ...]]
    """row -> the cells or ensembles of the experiments that reproduce it, without their seeds"""
    further_benchmarks: tuple[str, ...] = ()
    """benchmarks that its experiments are measured on beside those of its columns"""

    @property
    def means(self) -> dict[str, tuple[str, ...]]:
        """Column -> the columns of which it is the mean."""
        return {name: column.means for name, column in self.columns.items() if column.means}

    def digits(self, row: str) -> int:
        """The number of digits after the point in a row. Rows that a table copies from other papers may have fewer."""
        return max((_digits(cell.printed) for cell in self.rows[row].values()), default=0)

    @property
    def benchmarks(self) -> list[str]:
        """All benchmarks of the table: also those of which it does not say how they are counted.

        >>> tables_of("head_depth")[0].benchmarks
        ['vl_rewardbench', 'mm_rlhf_rewardbench']
        """
        found: dict[str, None] = {}
        for cells in self.rows.values():
            found |= dict.fromkeys(cell.benchmark for cell in cells.values())
        found |= dict.fromkeys(self.further_benchmarks)
        return [benchmark for benchmark in found if benchmark != MEAN_OF_BENCHMARKS]

    def comparable_benchmarks(self, row: str) -> list[str]:
        """The benchmarks of a row, without columns that are means and cells of an unknown protocol.

        >>> tables_of("head_depth")[0].comparable_benchmarks("1 layer")
        ['vl_rewardbench', 'mm_rlhf_rewardbench']
        """
        found: dict[str, None] = {}
        for column, cell in self.rows[row].items():
            if cell.variants and column not in self.means:
                found[cell.benchmark] = None
        return list(found)


def read_published_table(file: Path) -> PublishedTable:
    """Read a file of `experiments/published`.

    Raises:
        DataError: the file is not a valid table; the message lists every fault.

    >>> file = yaml_files(experiments_folders("published"))[0]
    >>> len(read_published_table(file).columns) > 1
    True
    """
    table = open_table(file)
    content, paper = table.content, table.content["paper"]
    columns: dict[str, dict[str, Any]] = content["columns"]
    return PublishedTable(
        title=paper["table"],
        paper=paper["title"],
        arxiv=paper["arxiv"],
        note=content.get("note"),
        columns={name: _column(column) for name, column in columns.items()},
        column_notes={name: column["note"] for name, column in columns.items() if "note" in column},
        row_notes=content.get("row_notes", {}),
        rows={row: _cells(table, row) for row in content["rows"]},
        experiments=tuple(listed(content.get("experiment", []))),
        joined={row: tuple(listed(names)) for row, names in content.get("cells", {}).items()},
        further_benchmarks=tuple(content.get("benchmarks", [])),
    )


def tables_of(experiment: str, *, folder: Path | None = None) -> list[PublishedTable]:
    """The tables that an experiment reproduces.

    Args:
        experiment: its name, without a folder.
        folder: of the tables; None: `published` of the folders of experiments.

    Raises:
        DataError: files are wrong; the message lists the faults of all files.

    >>> [table.title for table in tables_of("head_depth")]
    ['Table 2']
    """
    tables = named_tables(folder).values()
    return [table for table in tables if experiment in map(_without_folder, table.experiments)]


def named_tables(folder: Path | None = None) -> dict[str, PublishedTable]:
    """All tables by the names of their files, in the order of the numbers in them.

    Args:
        folder: of the tables; None: `published` of the folders of experiments.

    Raises:
        DataError: files are wrong; the message lists the faults of all files.

    >>> named_tables()["basereward_table_2"].experiments
    ('head_depth',)
    """
    tables: dict[str, PublishedTable] = {}
    faults: list[str] = []
    files = yaml_files(experiments_folders("published") if folder is None else [folder])
    for file in sorted(files, key=_sort_key):
        try:
            tables[file.stem] = read_published_table(file)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return tables


def reproducible_table(given: str) -> tuple[str, PublishedTable]:
    """A table that an experiment reproduces.

    Args:
        given: the name of its file, or a part of it that no other has, such as `table_2` of `basereward_table_2`.

    Returns:
        The name of its file, and the table.

    Raises:
        DataError: there is no such table, or no experiment reproduces it; the message lists the tables with one.

    >>> reproducible_table("table_2")[0]
    'basereward_table_2'
    """
    tables = named_tables()
    reproduced = [name for name, table in tables.items() if table.experiments]
    matches = [given] if given in reproduced else [name for name in reproduced if name.endswith(f"_{given}")]
    if len(matches) > 1:
        raise DataError(f"table '{given}' may be {' or '.join(matches)}; give the whole name")
    if given in tables and not matches:
        raise DataError(f"no experiment reproduces the table '{given}'; tables with one: {', '.join(reproduced)}")
    if not matches:
        raise DataError(unknown("table", given, reproduced))
    return matches[0], tables[matches[0]]


def _without_folder(experiment: str) -> str:
    return experiment.rpartition("/")[2]


def _column(stated: Mapping[str, Any]) -> PrintedColumn:
    variants = tuple(listed(stated["variant"]))
    return PrintedColumn(stated["benchmark"], variants, stated["metric"], means=tuple(stated.get("of", ())))


def _cells(table: TableFile, row: str) -> dict[str, PrintedCell]:
    columns = table.content["columns"]
    return {column: _cell(table, row, column) for column in columns if table.printed(row, column) is not None}


def _cell(table: TableFile, row: str, column: str) -> PrintedCell:
    claimed, change = table.content["columns"][column], table.corrections.get((row, column))
    actual = {**claimed, **(change or {})}
    variants = listed(actual["variant"])
    # A correction to `unknown` says that the number is of none of the variants that the column states.
    known = variants != [UNKNOWN] or change is None or "variant" not in change
    if UNKNOWN in variants:
        variants = [name for name in listed(claimed["variant"]) if name != UNKNOWN]
    printed: float = table.printed(row, column)
    return PrintedCell(
        printed,
        actual["benchmark"],
        tuple(variants),
        actual["metric"],
        is_percent=_right_percent(actual, printed),
        known=known,
        why=change["why"] if change else None,
    )


def _right_percent(actual: Mapping[str, Any], printed: float) -> float | None:
    """The percentage that should stand in a cell; None if the printed one is right.

    Args:
        actual: what is known about the cell: `count`, (right, all) items, or `value`, in percent, or neither.
        printed: the percentage in the table.
    """
    count = actual.get("count")
    percent: float | None = 100 * count[0] / count[1] if count else actual.get("value")
    # A printed number that is this one, rounded, is no misprint.
    if percent is not None and abs(percent - printed) <= 0.5 * 10.0 ** -max(_digits(printed), 1):
        return None
    return percent


def _digits(percent: float) -> int:
    """The number of digits after the point, without trailing zeros.

    >>> _digits(82.16), _digits(71.2), _digits(83.0)
    (2, 1, 0)
    """
    return len(repr(percent).partition(".")[2].rstrip("0"))


def _sort_key(file: Path) -> tuple[str, int]:
    # By number, so that table_2 comes before table_10.
    name, _, number = file.stem.rpartition("_")
    return (name, int(number)) if number.isdigit() else (file.stem, 0)
