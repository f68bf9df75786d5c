"""Splits tables of rows into train, val and test, no prompt in two of them, and reads a row when it is asked for.

A table is read through once, when its first group is wanted: every row is checked then, and of each only its place and
a hash of its prompt are kept (24 bytes), so that files much larger than the memory can be trained on.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from basereward.data.adapters import NO_PREFERENCE, RowAdapter, check_columns
from basereward.data.readers import Table
from basereward.data.schema.columns import ColumnsRead, WatchedRow, check_media, check_prompt_columns, shown_names
from basereward.data.schema.group import SPLITS, Group, RejectedRow, Split
from basereward.data.schema.messages import is_empty, shown
from basereward.data.schema.rejections import RowRejected, located
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.validation import check_usable
from basereward.data.sources import LazyGroups
from basereward.data.sources._row_index import MALFORMED, RowIndex, Unusable, prompt_key
from basereward.errors import DataError

logger = logging.getLogger(__name__)

MAX_FAULTS = 20  # faults of one table that are listed
FIRST_ROWS = 100  # when so many rows are malformed before the first good one, the rest of a table is not read


class _RefusedRows(RowRejected):
    """A shape finds nothing in a row that can be used: such a row is lost, but not malformed."""


class Partition:
    """The groups of one source by part, out of one table or several.

    Args:
        tables: the table of each part that has its own; `train` always has.
        shares: for the other parts, the share of train's table that is held out for it, 0 to 1. A row belongs to a part
            by a hash of `seed`, prompt and images: rows that are added or reordered do not change where others are.
        form: how rows of ours are read.
        shape: what turns a row of the table into one of ours; None where it is one.
        columns: for a shape, the column that it reads -> the table's own; a name -> null leaves that column unread.

    Raises:
        DataError: a share is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        tables: Mapping[Split, Table],
        shares: Mapping[Split, float],
        form: RowFormat,
        shape: RowAdapter | None = None,
        columns: Mapping[str, str | None] | None = None,
        seed: int = 0,
    ) -> None:
        if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
            given = ", ".join(f"{split}={share}" for split, share in shares.items())
            raise DataError(f"source '{name}': {given}; the shares held out are 0 or more and together less than 1")
        self.name = name
        self.tables = dict(tables)
        self.shares = dict(shares)
        self.form = form
        self.shape = shape
        self.columns = {ours: own for ours, own in (columns or {}).items() if own is not None}
        self.ignored = form.ignored.union(name for name, own in (columns or {}).items() if own is None)
        self.seed = seed
        self._asked: dict[str, None] = {}  # what the shape asked rows for
        self._named: set[str] = set()  # columns that a warning has named

    def groups(self, split: Split) -> Sequence[Group]:
        """As `Source.groups`."""
        return LazyGroups(partial(self._group, split), count=len(self._parts[split].places))

    def lost(self, split: Split) -> list[RejectedRow]:
        """As `Source.lost`: malformed rows, and those that say nothing to learn from."""
        return [self._lost(split, row) for row in self._parts[split].lost]

    def stream(self, split: Split) -> Iterator[Group | RejectedRow]:
        """As `Streamed.stream`: the rows as they are read, without an index of them."""
        own = split in self.tables
        if not own and not self.shares.get(split):
            return  # nothing is held out: the table need not be read to find that out
        for _, _, key, row in self._read(self.tables[split] if own else self.tables["train"]):
            if (own and split != "train") or self._part_of(key) == split:
                yield row if isinstance(row, Group) else self._lost(split, row)

    def columns_read(self) -> ColumnsRead:
        """Which columns were read, and which were not. Goes through the tables, unless that was done before."""
        _ = self._parts
        return self.form.report if self.shape is None else self._shape_report

    @cached_property
    def _shape_report(self) -> ColumnsRead:
        return ColumnsRead()

    def _lost(self, split: Split, row: Unusable) -> RejectedRow:
        fault = self.shape is None or row.reason not in NO_PREFERENCE
        return RejectedRow(self.name, split, row.id, row.reason, row.detail, fault=fault)

    def _part_of(self, key: int) -> Split:
        """The part of a row of train's table."""
        share, start = key / 2**64, 0.0
        for split, size in self.shares.items():
            if start <= share < start + size:
                return split
            start += size
        return "train"

    def _group(self, split: Split, index: int) -> Group:
        part = self._parts[split]
        table = self.tables.get(split, self.tables["train"])
        number = int(part.numbers[index])
        group = self._parse(table, number, _decode(table, number, table.read(int(part.places[index]))))
        if self._key(group) != part.keys[index]:
            raise DataError(f"{table.where(number)}: the row has changed since the run began; start anew")
        return group

    def _key(self, group: Group) -> int:
        return prompt_key(group, seed=self.seed, root=str(self.form.images.root))

    def _parse(self, table: Table, number: int, row: Mapping[str, Any]) -> Group:
        where = table.where(number)
        if self.shape is not None:
            row = self._shaped(self.shape, row, where=where)
        return self.form.group(row, source=self.name, row_id=table.row_id(number), where=where)

    def _shaped(self, shape: RowAdapter, row: Mapping[str, Any], *, where: str) -> Mapping[str, Any]:
        renamed = {name: value for name, value in row.items() if name not in self.ignored}
        renamed |= {ours: row[own] for ours, own in self.columns.items() if own in row}
        with located(where):
            check_columns(shape, renamed)
        try:
            shaped = shape(WatchedRow(renamed, self._asked))
        except RowRejected as loss:
            raise _RefusedRows(loss.reason, f"{where}: {loss.detail}") from None
        with located(where):
            self._check_unread(row, shaped)
        return shaped

    def _check_unread(self, row: Mapping[str, Any], shaped: Mapping[str, Any]) -> None:
        """Notes the columns that the shape did not ask for.

        Raises:
            RowRejected: one of them holds pictures, sound, tools or a system prompt.
        """
        report = self._shape_report
        own = {name: self.columns.get(name, name) for name in self._asked if name != "rows"}
        report.read.update({name: theirs for name, theirs in own.items() if theirs in row})
        copies = {name for name, theirs in own.items() if row.get(name) is row.get(theirs)}
        given = {name: value for name, value in row.items() if name != "rows"}
        rest = report.passed_over(given, read={*own.values(), *copies, *self.ignored})
        check_media(rest, has_images=not all(is_empty(shaped.get(name)) for name in ("images", "image")))
        check_prompt_columns(rest, prompt=None)

    @cached_property
    def _parts(self) -> dict[Split, RowIndex]:
        indices = {split: self._read_index(table) for split, table in self.tables.items()}
        rest = indices["train"]
        start = 0.0
        for split, share in self.shares.items():
            indices[split] = rest.between(start, start + share)
            start += share
        indices["train"] = rest.between(start, 1.0)
        self._warn_of_overlap(indices)
        sizes = ", ".join(f"{len(indices[split].places)} {split}" for split in SPLITS if split in indices)
        logger.info("source '%s': %s", self.name, sizes)
        return indices

    def _read_index(self, table: Table) -> RowIndex:
        places, numbers, keys = array("q"), array("q"), array("Q")
        lost: list[Unusable] = []
        for place, number, key, row in self._read(table):
            if isinstance(row, Unusable):
                lost.append(row)
                continue
            places.append(place)
            numbers.append(number)
            keys.append(key)
        if not places and not lost:
            raise DataError(f"{table.label} holds no rows")
        return RowIndex(np.array(places, np.int64), np.array(numbers, np.int64), np.array(keys, np.uint64), lost)

    def _read(self, table: Table) -> Iterator[tuple[int, int, int, Group | Unusable]]:
        """Every row: its place, its number, its key, and what it is. However far it is read, the columns that were met
        and not read are named."""
        try:
            yield from self._read_all(table)
        finally:
            self._warn_of_unread()

    def _read_all(self, table: Table) -> Iterator[tuple[int, int, int, Group | Unusable]]:
        malformed: list[tuple[str, str]] = []  # where, and what is wrong there
        used = 0
        limit = FIRST_ROWS if self.form.for_training else MAX_FAULTS
        unseen = set((self.form.columns | self.columns).values()) | self.ignored
        for place, number, raw in table.scan():
            key, row_id = MALFORMED, table.row_id(number)
            try:
                row = _decode(table, number, raw)
                unseen.difference_update(row)
                group = self._parse(table, number, row)
                key, row_id = self._key(group), group.id
                self._check(group, where=table.where(number))
            except RowRejected as loss:
                if key == MALFORMED and not isinstance(loss, _RefusedRows):
                    where = table.where(number)
                    malformed.append((where, loss.detail.removeprefix(f"{where}: ")))
                    if len(malformed) >= limit:
                        self._raise_faults(malformed, used=used)
                        malformed.pop()
                else:
                    used += 1
                # Its words alone: the error itself would keep the row in memory, through its traceback.
                yield place, number, key, Unusable(key, row_id, loss.reason, loss.detail)
            else:
                used += 1
                yield place, number, key, group
        self._raise_faults(malformed, used=used)
        if unseen and used:
            raise DataError(f"{table.label}: no row has the column {', '.join(sorted(unseen))}, which `columns` names")

    def _warn_of_unread(self) -> None:
        """Names the columns that nothing reads, each once."""
        report = self.form.report if self.shape is None else self._shape_report
        fresh = [name for name in report.unread if name not in self._named]
        if fresh:
            self._named.update(fresh)
            logger.warning("source '%s': columns that are not read: %s", self.name, shown_names(fresh))

    def _check(self, group: Group, *, where: str) -> None:
        if self.form.for_training:
            with located(where):
                check_usable(group)

    def _raise_faults(self, malformed: Sequence[tuple[str, str]], *, used: int) -> None:
        """Rows to be scored must all be well-formed. Of those to train on some may be lost and are counted; where all
        of the first ones are malformed, the columns have other names, or it is another data set.

        Args:
            used: rows so far that are not malformed.
        """
        if not malformed or (self.form.for_training and used):
            return
        if len(malformed) == 1:
            raise DataError(": ".join(malformed[0]))
        more = " or more" if len(malformed) >= MAX_FAULTS else ""
        places: dict[str, list[str]] = {}  # of rows with the same fault, which is said once
        for where, what in malformed[:MAX_FAULTS]:
            places.setdefault(what, []).append(where)
        listed = "\n".join(
            f"  {where[0]}: {what}" + (f" (and {len(where) - 1} more such rows)" if len(where) > 1 else "")
            for what, where in places.items()
        )
        raise DataError(f"{min(len(malformed), MAX_FAULTS)}{more} malformed rows:\n{listed}")

    def _warn_of_overlap(self, indices: Mapping[Split, RowIndex]) -> None:
        """Parts with files of their own are taken as they are; a prompt that is in two of them is said."""
        for split in self.tables:
            if split != "train":
                shared = int(np.isin(indices[split].keys, indices["train"].keys).sum())
                if shared:
                    logger.warning(
                        "source '%s': %d of %d rows of the %s part have a prompt that is trained on too",
                        self.name, shared, len(indices[split].keys), split,
                    )  # fmt: skip


def _decode(table: Table, number: int, raw: Any) -> Mapping[str, Any]:
    with located(table.where(number)):
        row = table.decode(raw)
        if not isinstance(row, dict):
            raise RowRejected("not_an_object", f"the row is {shown(row)}; an object with named columns is needed")
    return row
