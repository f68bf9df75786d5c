"""A CSV or TSV file, read by the byte offset of each row.

The readers of data frames guess: the answers `None` and `N/A` become missing cells, and a column of numbers becomes
numbers. Here a cell is the text that stands in it, and an empty one is missing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeAlias

from basereward.data.readers.json_lines import MAX_ROW_BYTES, check_rows_file
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

NUMBERS = ("margin", "chosen_rating", "rejected_rating")
"""Columns of ours that hold a number; in every other one a number is text, such as the answer `7`."""


def number_columns(columns: Mapping[str, str | None] | None = None) -> list[str]:
    """The columns of a file that hold numbers, where `columns` maps ours to its own, or to None for one not read."""
    mapped = {name: name for name in NUMBERS} | {ours: own for ours, own in (columns or {}).items() if ours in NUMBERS}
    return [own for own in mapped.values() if own is not None]


Raw: TypeAlias = list[str] | str  # the cells of a row, or what is wrong with it


class Separated:
    """The rows below the header: a place is a byte offset, a number is that of the row's first line.

    Args:
        path: the file.
        delimiter: between two cells.
        name: what messages call the file; by default its path.
        numbers: columns of the file that hold numbers.

    Raises:
        DataError: (when rows are read) the header is unusable, or the file is not CSV from some line on.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        delimiter: str = ",",
        name: str | Path | None = None,
        numbers: Collection[str] = NUMBERS,
    ) -> None:
        self.path = Path(path)
        self.delimiter = delimiter
        self.name = Path(path if name is None else name)
        self.numbers = frozenset(numbers)

    @property
    def label(self) -> str:
        return str(self.name)

    def scan(self) -> Iterator[tuple[int, int, Raw]]:
        start, line = self._body
        for place, number, cells in self._records(start, line):
            if cells:
                yield place, number, cells

    def read(self, place: int) -> Raw:
        return next(cells for _, _, cells in self._records(place, 0))

    def decode(self, raw: Raw) -> object:
        if isinstance(raw, str):
            raise RowRejected("malformed_csv", f"not CSV: {raw}")
        header = self._header
        if len(raw) != len(header):
            detail = f"the row has {len(raw)} fields and the header {len(header)}; a cell with {self.delimiter!r}"
            raise RowRejected("wrong_field_count", f"{detail} or a line break in it stands in quotation marks")
        if not _is_text(raw):
            raise RowRejected("not_utf8", "not UTF-8; save the file as UTF-8")
        return {name: self._cell(name, cell) for name, cell in zip(header, raw, strict=True)}

    def where(self, number: int) -> str:
        return f"{self.name}:{number}"

    def row_id(self, number: int) -> str:
        return f"{self.name.name}:{number}"

    def _cell(self, column: str, text: str) -> str | float | None:
        if not text:
            return None
        return _number(text) if column in self.numbers else text

    @property
    def _header(self) -> list[str]:
        return self._first[0]

    @property
    def _body(self) -> tuple[int, int]:
        """The byte offset after the header, and the lines before it."""
        return self._first[1:]

    @cached_property
    def _first(self) -> tuple[list[str], int, int]:
        reader = self._records(0, 0, ends=True)
        header, end, lines = next(((cells, end, lines) for end, lines, cells in reader if cells), ([], 0, 0))
        if isinstance(header, str):
            raise DataError(f"{self.name}: the header is not CSV: {header}")
        if not _is_text(header):
            raise DataError(f"{self.name}: the header is not UTF-8; save the file as UTF-8")
        if not header:
            raise DataError(f"{self.name} is empty; the first line of a CSV file names its columns")
        repeated = {name for name in header if header.count(name) > 1}
        if repeated:
            raise DataError(f"{self.name}: the header names {', '.join(sorted(repeated))} more than once")
        other = next((mark for mark in (";", "\t", ",", "|") if mark != self.delimiter and mark in header[0]), None)
        if len(header) == 1 and other is not None:
            raise DataError(
                f"{self.name}: the header is one column, '{header[0][:100]}', and its cells look separated by "
                f"{other!r}; a .csv file has commas and a .tsv file tabs between its cells"
            )
        return header, end, lines

    def _records(self, offset: int, line: int, *, ends: bool = False) -> Iterator[tuple[int, int, Raw]]:
        """Every record from a byte offset on, with where it begins (or ends) and the number of its first line (or of
        the lines up to its end)."""
        check_rows_file(self.path)
        csv.field_size_limit(MAX_ROW_BYTES)  # of the whole process; the library's own is 128 KiB
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                lines = _Lines(file, offset, line, name=str(self.name))
                reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
                while True:
                    began, number = lines.begin()
                    cells: Raw | None
                    try:
                        cells = next(reader, None)
                    except csv.Error as error:  # the reader goes on with the next line
                        cells = str(error)
                    if cells is None:
                        return
                    yield (lines.offset, lines.number, cells) if ends else (began, number + 1, cells)
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error


class _Lines(Iterator[str]):
    """Lines of a file as text, and how far it is read."""

    def __init__(self, file: BinaryIO, offset: int, number: int, *, name: str) -> None:
        self.file = file
        self.offset = offset
        self.number = number
        self.name = name
        self._began = offset, number

    def begin(self) -> tuple[int, int]:
        """Marks the beginning of a record, and returns its offset and the lines before it."""
        self._began = self.offset, self.number
        return self._began

    def __next__(self) -> str:
        line = self.file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        start, before = self._began
        if self.offset + len(line) - start > MAX_ROW_BYTES:
            raise DataError(
                f"{self.name}:{before + 1}: the row that begins here is longer than {MAX_ROW_BYTES:,} bytes; a "
                "quotation mark may lack its closing one"
            )
        text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8", "surrogateescape")
        self.offset += len(line)
        self.number += 1
        return text


def _is_text(cells: list[str]) -> bool:
    """Whether no cell holds a byte that is no UTF-8."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(text: str) -> float | str:
    """
    >>> _number("1.5"), _number("2"), _number("much")
    (1.5, 2, 'much')
    """
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if math.isfinite(value) and value.is_integer() and text.strip().lstrip("+-").isdigit() else value
