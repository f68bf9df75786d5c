"""Reads a CSV or TSV file by the byte offset of each row.

Data frame libraries infer types: the answers `None` and `N/A` become missing cells, and a column of digits becomes
numbers. Here a cell is its text, and only an empty cell is missing.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeAlias

from basereward.data.readers import FileTable
from basereward.data.readers.json_lines import MAX_ROW_BYTES, check_rows_file
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

NUMBERS = ("margin", "chosen_rating", "rejected_rating")
"""Our columns that contain numbers. In all other columns digits are text, such as the answer `7`."""

# Spreadsheets with a decimal comma write semicolons into `.csv` files.
DELIMITERS = (";", "\t", ",", "|")


def number_columns(columns: Mapping[str, str | None] | None = None) -> list[str]:
    """List the columns of a file that contain numbers.

    Args:
        columns: our column name -> the name in the file, or None for a column that is not read.

    >>> number_columns({"margin": "strength", "chosen_rating": None})
    ['strength', 'rejected_rating']
    """
    mapped = {name: name for name in NUMBERS} | {ours: own for ours, own in (columns or {}).items() if ours in NUMBERS}
    return [own for own in mapped.values() if own is not None]


# The first characters of a row, or of a list of rows, in JSON.
JSON_START = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"')
HEAD_BYTES = 512


# The cells of a row, or the error message of the CSV parser.
Raw: TypeAlias = list[str] | str


class Separated(FileTable):
    """The rows below the header. Places are byte offsets, numbers are those of a row's first line.

    Blanks around the names of columns are dropped; those of cells are kept.

    Args:
        path: the file.
        delimiter: the character between two cells.
        name: the name of the file in messages; None: its path.
        numbers: columns of the file that contain numbers.

    Raises:
        DataError: (when rows are read) the header is invalid, or the file cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows.csv"
    ...     _ = file.write_text("chosen,rejected,margin\\n7,N/A,1.5\\n")
    ...     table = Separated(file)
    ...     [table.decode(cells) for _, _, cells in table.scan()]
    [{'chosen': '7', 'rejected': 'N/A', 'margin': 1.5}]
    """

    def __init__(
        self,
        path: str | Path,
        *,
        delimiter: str = ",",
        name: str | Path | None = None,
        numbers: Collection[str] = NUMBERS,
    ) -> None:
        super().__init__(path, name=name)
        self.delimiter = delimiter
        self.numbers = frozenset(numbers)

    def scan(self) -> Iterator[tuple[int, int, Raw]]:
        """Yield the cells of the rows below the header; blank lines are skipped."""
        start, line = self._body_start
        for place, number, cells in self._records(start, line):
            if cells:
                yield place, number, cells

    def read(self, place: int) -> Raw:
        """Return the cells of the row that begins at a byte offset."""
        return next(cells for _, _, cells in self._records(place, 0))

    def decode(self, raw: Raw) -> object:
        """Convert cells to a row; an empty cell is null."""
        if isinstance(raw, str):
            raise RowRejected("malformed_csv", f"not CSV: {raw}")
        header = self._header
        if len(raw) != len(header):
            detail = f"the row has {len(raw)} fields and the header {len(header)}"
            advice = f"put cells that contain {self.delimiter!r} or a line break in quotation marks"
            raise RowRejected("wrong_field_count", f"{detail}; {advice}")
        if not _is_text(raw):
            raise RowRejected("not_utf8", "not UTF-8; save the file as UTF-8")
        return {name: self._cell(name, cell) for name, cell in zip(header, raw, strict=True)}

    def where(self, number: int) -> str:
        """Return the file and the first line of the row."""
        return f"{self.name}:{number}"

    def _cell(self, column: str, text: str) -> str | float | None:
        if not text:
            return None
        return _number(text) if column in self.numbers else text

    @property
    def _header(self) -> list[str]:
        return self._parsed_header[0]

    @property
    def _body_start(self) -> tuple[int, int]:
        """The byte offset of the first row, and the number of lines before it."""
        return self._parsed_header[1:]

    @cached_property
    def _parsed_header(self) -> tuple[list[str], int, int]:
        """The header, the byte offset of its end, and the number of its lines."""
        records = self._records(0, 0, ends=True)
        header, end, lines = next(((cells, end, lines) for end, lines, cells in records if cells), ([], 0, 0))
        return self._checked_header(header), end, lines

    def _checked_header(self, header: Raw) -> list[str]:
        """Return the column names.

        Raises:
            DataError: the header is not valid CSV or UTF-8, is empty, repeats a name or has another delimiter;
                or the file is JSON.
        """
        self._check_not_json()
        if isinstance(header, str):
            raise DataError(f"{self.name}: the header is not CSV: {header}")
        if not _is_text(header):
            raise DataError(f"{self.name}: the header is not UTF-8; save the file as UTF-8")
        if not header:
            raise DataError(f"{self.name} is empty; the first line of a CSV file names its columns")
        # Blanks after the delimiter (`prompt, chosen`) are common in headers, and YAML drops them from a mapping.
        header = [name.strip() for name in header]
        repeated = {name for name in header if header.count(name) > 1}
        if repeated:
            raise DataError(f"{self.name}: the header names {', '.join(sorted(repeated))} more than once")
        if len(header) == 1:
            self._check_delimiter(header[0])
        return header

    def _check_not_json(self) -> None:
        """Check that the file does not begin as JSON. A CSV cell with quotation marks inside begins with one, too."""
        with self.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if JSON_START.match(head):
            raise DataError(f"{self.name}: its content is JSON and not CSV; name the file .jsonl, or .json")

    def _check_delimiter(self, column: str) -> None:
        """Check that the only column name of a header does not contain another common delimiter."""
        for other in DELIMITERS:
            if other != self.delimiter and other in column:
                raise DataError(
                    f"{self.name}: the header is one column, '{column[:100]}', and its cells look separated by "
                    f"{other!r}; a .csv file has commas and a .tsv file tabs between its cells"
                )

    def _records(self, offset: int, line: int, *, ends: bool = False) -> Iterator[tuple[int, int, Raw]]:
        """Yield (byte offset, line number, cells) of every record from a byte offset on.

        Args:
            offset: the byte offset to begin at.
            line: the number of lines before `offset`.
            ends: whether to yield the offset and line at the end of each record instead of its beginning.
        """
        check_rows_file(self.path)
        # The default of 128 KiB is smaller than some responses. The limit is that of the whole process.
        csv.field_size_limit(MAX_ROW_BYTES)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                lines = _Lines(file, offset, line, name=str(self.name))
                reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
                while True:
                    start, number = lines.begin()
                    cells: Raw | None
                    try:
                        cells = next(reader, None)
                    except csv.Error as error:
                        # Only this record is bad; the parser continues with the next line.
                        cells = str(error)
                    if cells is None:
                        return
                    yield (lines.offset, lines.number, cells) if ends else (start, number + 1, cells)
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error


class _Lines(Iterator[str]):
    """Iterates over the lines of a file as text, and keeps track of the position.

    `csv.reader` does not report byte offsets, and one record may span several lines.
    """

    def __init__(self, file: BinaryIO, offset: int, number: int, *, name: str) -> None:
        self.file = file
        self.offset = offset
        self.number = number
        self.name = name
        self._record_start = offset, number

    def begin(self) -> tuple[int, int]:
        """Begin a record; return its byte offset and the number of lines before it."""
        self._record_start = self.offset, self.number
        return self._record_start

    def __next__(self) -> str:
        line = self.file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        start, before = self._record_start
        if self.offset + len(line) - start > MAX_ROW_BYTES:
            raise DataError(
                f"{self.name}:{before + 1}: the row that begins here is longer than {MAX_ROW_BYTES:,} bytes; "
                "check for a quotation mark that is not closed"
            )
        # Invalid bytes become lone surrogates here, so that only their row is rejected; see `_is_text`.
        text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8", "surrogateescape")
        self.offset += len(line)
        self.number += 1
        return text


def _is_text(cells: list[str]) -> bool:
    """Whether all cells are valid UTF-8; invalid bytes were decoded to lone surrogates."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(text: str) -> float | str:
    """Parse a number; any other text is returned as it is.

    >>> _number("1.5"), _number("2"), _number("much")
    (1.5, 2, 'much')
    """
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if math.isfinite(value) and value.is_integer() and text.strip().lstrip("+-").isdigit() else value
