"""Reads a file with rows of any supported kind, which its name determines; see `basereward/io/formats.py`."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from basereward.data.readers import Table, TableWrapper
from basereward.data.readers.arrow import ArrowTable
from basereward.data.readers.json_array import one_json_value
from basereward.data.readers.json_lines import JsonLines, check_rows_file
from basereward.data.readers.separated import NUMBERS, Separated
from basereward.data.readers.sliced import is_part, part_of
from basereward.data.readers.web_dataset import WebDataset
from basereward.errors import DataError
from basereward.io.formats import (
    ARROW,
    JSON,
    SEPARATED,
    compression,
    content_advice,
    known_rows,
    rows_kind,
    suffix_advice,
)
from basereward.io.limits import pipe_fault
from basereward.io.unpacking import unpacked

# Enough for a signature and the names of an archive's first members.
HEAD_BYTES = 512


def _allowed() -> str:
    return f"Allowed: {known_rows()}"


class RowsFile(TableWrapper):
    """The rows of a file, which is opened on the first access.

    Args:
        path: the file; compressed files are unpacked into the cache.
        split: `train` or slices of it, such as `train[:100]`; a file has no other split.
        numbers: columns of a CSV file that contain numbers.
        otherwise: the kind of a file with an unknown suffix, one of `io.formats.ROWS`; None: an error.

    Raises:
        DataError: the kind of the file is unknown, or the split is not `train`.

    >>> RowsFile("data/pairs.csv.gz").kind
    '.csv'
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str = "train",
        numbers: Collection[str] = NUMBERS,
        otherwise: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.split = split
        self.numbers = tuple(numbers)
        self.kind = rows_kind(self.path) or otherwise
        if advice := suffix_advice(self.path):
            raise DataError(f"{path}: rows are not read from '{self.path.suffix}' files; {advice}. {_allowed()}")
        if self.kind is None and (fault := pipe_fault(self.path)):
            raise DataError(f"cannot read {path}: {fault}")
        if self.kind is None:
            raise DataError(f"{path}: unknown kind of file '{self.path.suffix}'. {_allowed()}")
        if not is_part(split):
            raise DataError(
                f"{path} has no split '{split}': the only split of a file is train. Set split=train; for val and test "
                "give another file or a fraction of this one, such as 0.05"
            )

    @property
    def label(self) -> str:
        """The path of the file."""
        return str(self.path)

    @cached_property
    def table(self) -> Table:  # type: ignore[override]  # opened late, and not given to the constructor
        """The table by the reader of the file's kind, opened when the first row is read."""
        check_rows_file(self.path)
        self._check_content()
        if self.kind in ARROW:
            if compression(self.path):
                raise DataError(
                    f"{self.path}: unpack it first; {self.kind} files have their own compression of columns"
                )
            return ArrowTable(str(self.path), subset=None, revision=None, split=self.split)
        # The readers access rows by byte offset, which a compressed file does not allow.
        path = unpacked(self.path) if compression(self.path) else self.path
        return part_of(self._of_kind(path), self.split)

    def _check_content(self) -> None:
        """Check that a file with the suffix of a text file has no other content.

        Raises:
            DataError: its first bytes are those of another kind of file.
        """
        if self.kind not in (*JSON, *SEPARATED) or compression(self.path):
            return
        try:
            with self.path.open("rb") as file:
                advice = content_advice(file.read(HEAD_BYTES))
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        if advice:
            raise DataError(f"cannot read {self.path}: {advice}")

    def _of_kind(self, path: Path) -> Table:
        """Open an uncompressed file by the reader of its kind."""
        if self.kind in JSON:
            # The suffix does not decide: many published `.json` files are JSON Lines, and some `.jsonl` one value.
            whole = one_json_value(path, name=self.path)
            return JsonLines(path, name=self.path) if whole is None else whole
        if self.kind in SEPARATED:
            delimiter = "\t" if self.kind == ".tsv" else ","
            return Separated(path, delimiter=delimiter, name=self.path, numbers=self.numbers)
        return WebDataset(path, name=self.path)
