"""Splits tables of rows into train, val and test by a hash of the prompt, and reads rows on access.

A table is read once when its first group is accessed. Then every row is checked, and only its place, its number and a
hash of its prompt are kept (24 bytes), so that files much larger than the memory can be used.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from basereward.data.adapters import NO_PREFERENCE, RowAdapter
from basereward.data.formats.row_reader import RejectedByAdapter, RowReader
from basereward.data.readers import Table
from basereward.data.schema.columns import ColumnsRead, shown_names
from basereward.data.schema.group import SPLITS, Group, RejectedRow, Split
from basereward.data.schema.messages import shown
from basereward.data.schema.missing_columns import MappedColumns
from basereward.data.schema.rejections import RowRejected, located
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.validation import check_usable
from basereward.data.sources import LazyGroups
from basereward.data.sources._row_index import MALFORMED, RowIndex, Unusable, prompt_key
from basereward.errors import DataError
from basereward.io.progress import track

logger = logging.getLogger(__name__)

# The largest number of faults that an error message lists.
MAX_FAULTS = 20
# Reading stops if the first 100 rows are all malformed: the columns must have other names, and reading all of a large
# data set would take long.
FIRST_ROWS = 100


class Partition:
    """The groups of a source, split into train, val and test.

    Args:
        name: the name of the source.
        tables: the table of each split that has its own; `train` is required.
        split_fractions: for the other splits, the fraction of the train table that is held out, 0 to 1. A hash of
            `seed`, prompt and images assigns a row to a split, so that adding or reordering rows does not move others.
        row_format: reads rows in our format.
        adapter: converts a row of the table to our format; None if it is in our format.
        columns: for an adapter, the column that it reads -> the name in the table; a name -> null leaves that column
            unread.
        seed: determines which rows are held out.

    Raises:
        DataError: a fraction is out of range.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from basereward.data.readers.json_lines import JsonLines
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "sums.jsonl"
    ...     _ = file.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}\\n')
    ...     source = Partition("sums", tables={"train": JsonLines(file)}, split_fractions={}, row_format=RowFormat())
    ...     print([group.responses for group in source.groups("train")])
    [('4', '5')]
    """

    def __init__(
        self,
        name: str,
        *,
        tables: Mapping[Split, Table],
        split_fractions: Mapping[Split, float],
        row_format: RowFormat,
        adapter: RowAdapter | None = None,
        columns: Mapping[str, str | None] | None = None,
        seed: int = 0,
    ) -> None:
        _check_fractions(split_fractions, name=name)
        self.name = name
        self.tables = dict(tables)
        self.split_fractions = dict(split_fractions)
        self.row_format = row_format
        self.adapter = adapter
        self.seed = seed
        self._reader = RowReader(row_format, adapter=adapter, columns=columns)
        # Unread columns that a warning has named.
        self._warned: set[str] = set()
        self._warned_rendered: set[str] = set()

    def groups(self, split: Split) -> Sequence[Group]:
        """See `Source.groups`."""
        return LazyGroups(partial(self._group, split), count=len(self._indices[split].places))

    def rejected(self, split: Split) -> list[RejectedRow]:
        """See `Source.rejected`."""
        return [self._rejected_row(split, row) for row in self._indices[split].rejected]

    def stream(self, split: Split) -> Iterator[Group | RejectedRow]:
        """See `Streamed.stream`. The rows are read without building an index."""
        has_table = split in self.tables
        if not has_table and not self.split_fractions.get(split):
            # Nothing is held out, so the table need not be read.
            return
        for _, _, key, row in self._read(self.tables[split] if has_table else self.tables["train"]):
            if (has_table and split != "train") or self._split_of(key) == split:
                yield row if isinstance(row, Group) else self._rejected_row(split, row)

    def columns_read(self) -> ColumnsRead:
        """Report which columns are read and which are not. Reads the tables unless that was done before."""
        _ = self._indices
        return self.columns_seen()

    def columns_seen(self) -> ColumnsRead:
        """Report as `columns_read`, but only on the rows that were read so far."""
        return self._reader.report

    def _rejected_row(self, split: Split, row: Unusable) -> RejectedRow:
        # A row of our own format with a single response is not what its writer wanted.
        fault = row.reason not in NO_PREFERENCE or (self.adapter is None and row.reason == "single_response")
        return RejectedRow(self.name, split, row.id, row.reason, row.detail, fault=fault)

    def _split_of(self, key: int) -> Split:
        """Return the split of a row of the train table, the same as `_indices` gives."""
        fraction, start = key / 2**64, 0.0
        for split, size in self.split_fractions.items():
            if start <= fraction < start + size:
                return split
            start += size
        return "train"

    def _group(self, split: Split, index: int) -> Group:
        rows = self._indices[split]
        table = self.tables.get(split, self.tables["train"])
        number = int(rows.numbers[index])
        group = self._parse(table, number, _decode(table, number, table.read(int(rows.places[index]))))
        # The file may have been edited after the index was built, which could move rows between splits.
        if self._key(group) != rows.keys[index]:
            raise DataError(f"{table.where(number)}: the row has changed since the run began; start a new run")
        return group

    def _key(self, group: Group) -> int:
        return prompt_key(group, seed=self.seed, root=str(self.row_format.images.root))

    def _parse(self, table: Table, number: int, row: Mapping[str, Any]) -> Group:
        return self._reader.group(row, source=self.name, row_id=table.row_id(number), where=table.where(number))

    @cached_property
    def _indices(self) -> dict[Split, RowIndex]:
        """The index of each split."""
        indices = {split: self._read_index(table) for split, table in self.tables.items()}
        # Held-out splits are consecutive ranges of the hash, from 0 on; the rest of the range is train.
        all_rows = indices["train"]
        start = 0.0
        for split, fraction in self.split_fractions.items():
            indices[split] = all_rows.between(start, start + fraction)
            start += fraction
        indices["train"] = all_rows.between(start, 1.0)
        self._warn_of_overlap(indices)
        sizes = ", ".join(f"{len(indices[split].places)} {split}" for split in SPLITS if split in indices)
        logger.info("source '%s': %s", self.name, sizes)
        return indices

    def _read_index(self, table: Table) -> RowIndex:
        """Read all rows of a table once, and keep only their places, numbers and keys."""
        # `array` needs 8 bytes per entry; a list of ints would need about 40.
        places, numbers, keys = array("q"), array("q"), array("Q")
        rejected: list[Unusable] = []
        for place, number, key, row in track(self._read(table), f"reading rows of {table.label}"):
            if isinstance(row, Unusable):
                rejected.append(row)
                continue
            places.append(place)
            numbers.append(number)
            keys.append(key)
        if not places and not rejected:
            raise DataError(f"{table.label} has no rows")
        return RowIndex(np.array(places, np.int64), np.array(numbers, np.int64), np.array(keys, np.uint64), rejected)

    def _read(self, table: Table) -> Iterator[tuple[int, int, int, Group | Unusable]]:
        """Yield (place, number, key, group or rejection) of every row, then warn of unread columns."""
        try:
            yield from self._read_all(table)
        finally:
            # Here, because a caller that stops early closes the generator.
            self._warn_of_unread()

    def _read_all(self, table: Table) -> Iterator[tuple[int, int, int, Group | Unusable]]:
        """Yield as `_read`; raise an error for malformed rows as `_raise_faults` describes."""
        # Pairs of (location, fault).
        malformed: list[tuple[str, str]] = []
        used = 0
        limit = FIRST_ROWS if self.row_format.for_training else MAX_FAULTS
        mapped = MappedColumns(self._reader.named_columns)
        for place, number, raw in table.scan():
            key, row_id = MALFORMED, table.row_id(number)
            try:
                row = _decode(table, number, raw)
                mapped.see(row)
                group = self._parse(table, number, row)
                key, row_id = self._key(group), group.id
                self._check(group, where=table.where(number))
            except RowRejected as rejection:
                if key == MALFORMED and not isinstance(rejection, RejectedByAdapter):
                    where = table.where(number)
                    malformed.append((where, rejection.detail.removeprefix(f"{where}: ")))
                    if len(malformed) >= limit:
                        self._raise_faults(malformed, used=used)
                        # It raised no error, so the list is only needed to know that there are faults. Its length stays
                        # below the limit, because a data set may have millions of such rows.
                        malformed.pop()
                else:
                    used += 1
                # Only the texts are kept: the traceback of the exception would keep the row in memory.
                yield place, number, key, Unusable(key, row_id, rejection.reason, rejection.detail)
            else:
                used += 1
                yield place, number, key, group
        self._raise_faults(malformed, used=used)
        if used:
            mapped.check(table.label)

    def _warn_of_unread(self) -> None:
        """Log the columns that are not read, and those with rendered text, each only once."""
        report = self.columns_seen()
        rendered = [name for name in report.rendered if name not in self._warned_rendered]
        if rendered:
            self._warned_rendered.update(rendered)
            logger.warning(
                "source '%s': text that is already rendered by a chat template: %s; the template of the model is "
                "applied to it again, and its tokens are read as text. Give messages instead: "
                '[{"role": "user", "content": ...}, ...]',
                self.name, shown_names(rendered),
            )  # fmt: skip
        new = [name for name in report.unread if name not in self._warned]
        if new:
            self._warned.update(new)
            logger.warning("source '%s': columns that are not read: %s", self.name, shown_names(new))

    def _check(self, group: Group, *, where: str) -> None:
        """Check that a group is usable for training, if it is for training."""
        if self.row_format.for_training:
            with located(where):
                check_usable(group)

    def _raise_faults(self, malformed: Sequence[tuple[str, str]], *, used: int) -> None:
        """Raise an error for malformed rows.

        Rows for scoring must all be well-formed. Malformed rows for training are only counted, unless no row is usable:
        then the columns probably have other names.

        Args:
            malformed: pairs of (location, fault).
            used: the number of rows so far that are not malformed.
        """
        if not malformed or (self.row_format.for_training and used):
            return
        if len(malformed) == 1:
            raise DataError(": ".join(malformed[0]))
        more = " or more" if len(malformed) >= MAX_FAULTS else ""
        # By fault, because the same fault in many rows is shown once.
        locations: dict[str, list[str]] = {}
        for where, fault in malformed[:MAX_FAULTS]:
            locations.setdefault(fault, []).append(where)
        lines = []
        for fault, places in locations.items():
            others = f" (and {len(places) - 1} more such rows)" if len(places) > 1 else ""
            lines.append(f"  {places[0]}: {fault}{others}")
        raise DataError("\n".join([f"{min(len(malformed), MAX_FAULTS)}{more} malformed rows:", *lines]))

    def _warn_of_overlap(self, indices: Mapping[Split, RowIndex]) -> None:
        """Log prompts that are in two splits, which is possible only for splits with tables of their own."""
        for split in self.tables:
            if split == "train":
                continue
            keys = indices[split].keys
            num_shared = int(np.isin(keys, indices["train"].keys).sum())
            if num_shared:
                logger.warning(
                    "source '%s': %d of %d rows of the %s split have a prompt that is also in the train split",
                    self.name, num_shared, len(keys), split,
                )  # fmt: skip


def open_splits(
    open_table: Callable[[str], Table], *, train: str, held_out: Mapping[Split, float | str]
) -> tuple[dict[Split, Table], dict[Split, float]]:
    """Open the table of each split that has its own.

    Args:
        open_table: opens the table of a file or split of a data set.
        train: the file or split to train on.
        held_out: for val and test, another file or split, or the fraction of `train` that is held out.

    Returns:
        The tables, and the fractions of the splits that have none; the arguments of `Partition`.

    >>> from basereward.data.readers.json_lines import JsonLines
    >>> tables, fractions = open_splits(JsonLines, train="a.jsonl", held_out={"val": "b.jsonl", "test": 0.1})
    >>> {split: table.label for split, table in tables.items()}, fractions
    ({'train': 'a.jsonl', 'val': 'b.jsonl'}, {'test': 0.1})
    """
    tables: dict[Split, Table] = {"train": open_table(train)}
    fractions: dict[Split, float] = {}
    for split, origin in held_out.items():
        if isinstance(origin, str):
            tables[split] = open_table(origin)
        else:
            fractions[split] = origin
    return tables, fractions


def _check_fractions(split_fractions: Mapping[Split, float], *, name: str) -> None:
    """Check that some of the train table is left for training."""
    fractions = split_fractions.values()
    if any(not 0 <= fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        listed = ", ".join(f"{split}={fraction}" for split, fraction in split_fractions.items())
        raise DataError(
            f"source '{name}': {listed}; the fractions held out must be 0 or more, and together less than 1"
        )


def _decode(table: Table, number: int, raw: Any) -> Mapping[str, Any]:
    """Convert raw content to a row, which must be an object."""
    with located(table.where(number)):
        row = table.decode(raw)
        if not isinstance(row, dict):
            raise RowRejected("not_an_object", f"the row is {shown(row)}; an object with named columns is needed")
    return row
