"""A table of the data sets library whose rows are made when they are read, for trainers that take nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

from datasets import Dataset

LazyTable: TypeAlias = Dataset
MakeRow: TypeAlias = Callable[[int], Mapping[str, Any]]


def lazy_table(row: MakeRow, count: int) -> LazyTable:
    """A data set of `count` rows.

    Processes that load rows must be forked, as they are by default on Linux: the function is not pickled.

    Args:
        row: maps an index to the columns of a row; all rows have the same ones.
        count: the number of rows.

    >>> table = lazy_table(lambda index: {"square": index**2}, count=4)
    >>> len(table), table[3], table[[1, 1, 2]]["square"]
    (4, {'square': 9}, [1, 1, 4])
    """
    return Dataset.from_dict({"index": list(range(count))}).with_transform(_Columns(row))


class _Columns:
    """Makes the columns of rows from their indices.

    Args:
        row: see `lazy_table`.
    """

    def __init__(self, row: MakeRow) -> None:
        self._row = row
        self._name = uuid.uuid4().hex

    def __call__(self, batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        # Trainers read the same row for each rollout of its prompt; it is made, and its images are opened, once.
        made = {index: self._row(index) for index in dict.fromkeys(batch["index"])}
        rows = [made[index] for index in batch["index"]]
        return {name: [values[name] for values in rows] for name in (rows[0] if rows else {})}

    def __reduce__(self) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        # The data sets library hashes the pickle of a transform, and the function may hold millions of groups.
        return _unpickled, (self._name,)

    def __deepcopy__(self, memo: Any) -> _Columns:
        return self


def _unpickled(name: str) -> NoReturn:
    raise TypeError("rows of a lazy table cannot be sent to another process; use loader workers that are forked")
