"""Splits tables of rows into train, val and test, no prompt in two of them, and reads a row when it is asked for.

A table is read through once, when its first group is wanted: every row is checked then, and of each only its place and
a hash of its prompt are kept (24 bytes), so that files much larger than the memory can be trained on.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import PIL.Image

from basereward.data.group import SPLITS, Group, Image, Lost, Split
from basereward.data.messages import shown
from basereward.data.rows import RowFormat, find_blank
from basereward.data.sources import LazyGroups
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_FAULTS = 20  # faults of one table that are listed before reading stops


class Table(Protocol):
    """Rows on a disk. `label` is what messages call the table."""

    @property
    def label(self) -> str: ...

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Place, number and raw content of every row, in order. `read` takes the place; the number is for people."""
        ...

    def read(self, place: int) -> Any:
        """The raw content of one row."""
        ...

    def decode(self, raw: Any) -> object:
        """The row. Raises: DataError, which does not say where."""
        ...

    def where(self, number: int) -> str:
        """What messages call a row."""
        ...

    def row_id(self, number: int) -> str:
        """The id of a row that has none of its own."""
        ...


@dataclass(frozen=True, slots=True)
class _Blank:
    """A row with a blank response."""

    key: int
    id: str
    detail: str


@dataclass
class _Index:
    """Where the usable rows of a table are; the arrays have one entry a row."""

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    keys: NDArray[np.uint64]
    blank: list[_Blank] = field(default_factory=list)


class Partition:
    """The groups of one source by part, out of one table or several.

    Args:
        tables: the table of each part that has its own; `train` always has.
        shares: for the other parts, the share of train's table that is held out for it, 0 to 1. A row belongs to a part
            by a hash of `seed`, prompt and images: rows that are added or reordered do not change where others are.

    Raises:
        DataError: a share is out of range.
    """

    def __init__(
        self, name: str, *, tables: Mapping[Split, Table], shares: Mapping[Split, float], form: RowFormat, seed: int = 0
    ) -> None:
        if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
            given = ", ".join(f"{split}={share}" for split, share in shares.items())
            raise DataError(f"source '{name}': {given}; the shares held out are 0 or more and together less than 1")
        self.name = name
        self.tables = dict(tables)
        self.shares = dict(shares)
        self.form = form
        self.seed = seed

    def groups(self, split: Split) -> Sequence[Group]:
        """As `Source.groups`."""
        return LazyGroups(partial(self._group, split), count=len(self._parts[split].places))

    def lost(self, split: Split) -> list[Lost]:
        """As `Source.lost`: the rows with a blank response."""
        return [Lost(self.name, split, row.id, "empty_response", row.detail) for row in self._parts[split].blank]

    def _group(self, split: Split, index: int) -> Group:
        part = self._parts[split]
        table = self.tables.get(split, self.tables["train"])
        number = int(part.numbers[index])
        group = self._parse(table, number, _decode(table, number, table.read(int(part.places[index]))))
        if self._key(group) != part.keys[index]:
            raise DataError(f"{table.where(number)}: the row has changed since the run began; start anew")
        return group

    def _parse(self, table: Table, number: int, row: Mapping[str, Any]) -> Group:
        return self.form.group(row, source=self.name, row_id=table.row_id(number), where=table.where(number))

    @cached_property
    def _parts(self) -> dict[Split, _Index]:
        indices = {split: self._read_index(table) for split, table in self.tables.items()}
        rest = indices["train"]
        start = 0.0
        for split, share in self.shares.items():
            indices[split] = _between(rest, start, start + share)
            start += share
        indices["train"] = _between(rest, start, 1.0)
        self._warn_of_overlap(indices)
        sizes = ", ".join(f"{len(indices[split].places)} {split}" for split in SPLITS if split in indices)
        logger.info("source '%s': %s", self.name, sizes)
        return indices

    def _read_index(self, table: Table) -> _Index:
        places, numbers, keys = array("q"), array("q"), array("Q")
        blank: list[_Blank] = []
        faults: list[str] = []
        unseen = set(self.form.columns.values())
        for place, number, raw in table.scan():
            try:
                row = _decode(table, number, raw)
                group = self._parse(table, number, row)
            except DataError as error:
                faults.append(str(error))
                if len(faults) == MAX_FAULTS:
                    break
                continue
            if unseen:
                unseen.difference_update(row)
            key = self._key(group)
            if self.form.for_training and (detail := find_blank(group)):
                blank.append(_Blank(key, group.id, f"{table.where(number)}: {detail}"))
                continue
            places.append(place)
            numbers.append(number)
            keys.append(key)
        _raise_faults(faults)
        if not places and not blank:
            raise DataError(f"{table.label} holds no rows")
        if unseen:
            raise DataError(f"{table.label}: no row has the column {', '.join(sorted(unseen))}, which `columns` names")
        return _Index(np.array(places, np.int64), np.array(numbers, np.int64), np.array(keys, np.uint64), blank)

    def _key(self, group: Group) -> int:
        """A hash of the prompt's turns and images, 64 bits."""
        turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
        digest = hashlib.blake2b(repr(turns).encode(), digest_size=8, key=str(self.seed).encode())
        for image in group.images:
            digest.update(_identity(image, root=str(self.form.images_root)))
        return int.from_bytes(digest.digest(), "big")

    def _warn_of_overlap(self, indices: Mapping[Split, _Index]) -> None:
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
    try:
        row = table.decode(raw)
        if not isinstance(row, dict):
            raise DataError(f"the row is {shown(row)}; an object with named columns is needed")
    except DataError as error:
        raise DataError(f"{table.where(number)}: {error}") from None
    return row


def _between(index: _Index, low: float, high: float) -> _Index:
    """The rows whose key, taken as a number from 0 to 1, is in [low, high)."""
    shares = index.keys.astype(np.float64) / 2**64
    chosen = (shares >= low) & ((shares < high) | (high >= 1))
    blank = [row for row in index.blank if low <= row.key / 2**64 and (row.key / 2**64 < high or high >= 1)]
    return _Index(index.places[chosen], index.numbers[chosen], index.keys[chosen], blank)


def _identity(image: Image, *, root: str) -> bytes:
    """What makes two images the same: their path below the root, or their content."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        return hashlib.blake2b(image.tobytes()).digest()
    path = str(image)
    return hashlib.blake2b(path.removeprefix(root).lstrip("/").encode("utf-8", "surrogateescape")).digest()


def _raise_faults(faults: Sequence[str]) -> None:
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        more = " or more" if len(faults) == MAX_FAULTS else ""
        raise DataError(f"{len(faults)}{more} malformed rows:\n" + "\n".join(f"  {fault}" for fault in faults))
