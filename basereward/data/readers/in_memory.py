"""Rows that are in memory: a data set of the `datasets` library, a data frame, or any iterable of objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from basereward.data.images.array_images import IMAGE_DIMENSIONS
from basereward.data.readers import Table
from basereward.data.readers.arrow import ArrowTable
from basereward.data.schema.messages import shown
from basereward.errors import DataError

if TYPE_CHECKING:
    import datasets

Rows: TypeAlias = "Iterable[Mapping[str, Any]]"
"""A `datasets.Dataset`, a `pandas.DataFrame`, or an iterable of dicts."""

LABEL = "rows"


class DatasetTable(ArrowTable):
    """The rows of a data set that is open already.

    Args:
        dataset: a `datasets.Dataset`.

    >>> import datasets
    >>> table = DatasetTable(datasets.Dataset.from_list([{"prompt": "Hi"}]))
    >>> [table.decode(raw) for _, _, raw in table.scan()]
    [{'prompt': 'Hi'}]
    """

    def __init__(self, dataset: datasets.Dataset) -> None:
        super().__init__(LABEL, subset=None, revision=None, split="train")
        self.dataset = dataset

    @property
    def label(self) -> str:
        """The same for all data sets in memory, which have no name."""
        return LABEL

    def _load(self) -> datasets.Dataset:
        return self.dataset


class ListTable:
    """The rows of a list. Places and numbers are indices.

    Args:
        rows: the rows.

    >>> [row for _, _, row in ListTable([{"prompt": "Hi"}]).scan()]
    [{'prompt': 'Hi'}]
    """

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    @property
    def label(self) -> str:
        """The same for all lists, which have no name."""
        return LABEL

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the rows."""
        for index, row in enumerate(self.rows):
            yield index, index, row

    def read(self, place: int) -> Any:
        """Return the row with index `place`."""
        return self.rows[place]

    def decode(self, raw: Any) -> object:
        """Return the row as a dict; its cells are not changed."""
        return dict(raw) if isinstance(raw, Mapping) else raw

    def where(self, number: int) -> str:
        """Return the index."""
        return f"{LABEL}[{number}]"

    def row_id(self, number: int) -> str:
        """Return the index."""
        return f"{LABEL}:{number}"


def in_memory(rows: Rows) -> Table:
    """Open rows in memory as a table. An iterator is read to its end.

    Raises:
        DataError: the rows are no objects with named columns, or have several splits.

    >>> import pandas
    >>> table = in_memory(pandas.DataFrame({"prompt": ["Hi"], "margin": [None]}))
    >>> table.read(0)
    {'prompt': 'Hi', 'margin': None}
    """
    import datasets

    if isinstance(rows, datasets.Dataset):
        return DatasetTable(rows)
    if isinstance(rows, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(f"the data set has the splits {', '.join(map(str, rows))}; give one of them, as data['train']")
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return ListTable(_frame_rows(rows))
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(f"rows are {shown(rows)}; a data set, a data frame or an iterable of dicts is needed")
    listed = list(rows)
    for index, row in enumerate(listed):
        if not isinstance(row, Mapping):
            raise DataError(f"rows[{index}] is {shown(row)}; a dict with named columns is needed")
    return ListTable(listed)


def _frame_rows(frame: Any) -> list[dict[str, Any]]:
    """Convert a data frame to rows of plain values."""
    return [{str(name): _plain(cell) for name, cell in row.items()} for row in frame.to_dict("records")]


def _plain(cell: Any) -> Any:
    """Convert a cell of a data frame: arrays to lists, numbers of numpy to Python's, a missing number to None.

    Arrays with three dimensions are images, and stay as they are.

    >>> import numpy as np
    >>> _plain(np.array([[0, 1]])), _plain(np.float32(0.5)), _plain(np.zeros((2, 4, 3))).shape
    ([[0, 1]], 0.5, (2, 4, 3))
    """
    if hasattr(cell, "tolist") and getattr(cell, "ndim", 0) < IMAGE_DIMENSIONS:
        cell = cell.tolist()
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {key: _plain(item) for key, item in cell.items()}
    # NaN and NaT, which pandas writes for a missing value of any column, are not equal to themselves. NA has no truth.
    if type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and cell != cell):
        return None
    return cell
