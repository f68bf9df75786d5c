"""Rows of preference data in any known format; `basereward/data/formats` has the table of formats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.data.open_rows import Data, open_images, open_table
from basereward.data.schema.group import Group
from basereward.data.schema.rows import RowFormat
from basereward.data.sources._partition import Partition
from basereward.data.sources._rows_source import RowsSource


class Jsonl(RowsSource):
    """Rows of a file, a folder or a data set, in any format that is recognised by its columns.

    Args:
        name: the name of the source.
        path: a file: JSON Lines, JSON, CSV, TSV, Parquet, Arrow or a WebDataset tar, all but Parquet and Arrow also
            with `.gz` or `.zst`; a folder of such files, or one that `save_to_disk` wrote; a pattern of files, such as
            `data/*.jsonl`; or a hub id.
        images_root: the folder that relative image paths start from; null: the folder of the file, the folder itself,
            or that before the first wildcard of a pattern.
        options: `val`, `test`, `columns`, `image_mark`, `rating_range` and `seed` of `RowsSource`.

    Raises:
        DataError: an argument is out of range, or (from `groups` and `rejected`) a file is missing or rows are
            malformed; the message lists every fault with file and line.

    >>> source = Jsonl("mine", path="data/pairs.jsonl", val="data/val.jsonl", test=0.1)
    >>> source.tables["val"].label, source.split_fractions
    ('data/val.jsonl', {'test': 0.1})
    """

    def __init__(
        self,
        name: str,
        *,
        path: str,
        images_root: str | None = None,
        **options: Any,
    ) -> None:
        images = open_images(path, images_root)
        super().__init__(name, open_table=open_table, train=path, images=images, adapter=None, **options)


def read_rows(
    data: Data, *, images_root: str | Path | None = None, columns: Mapping[str, str | None] | None = None
) -> Sequence[Group]:
    """Read all rows of a file, folder, pattern, hub id or object for scoring, in their order.

    A row needs at least one response and no preferences. Every row is checked before this function returns; each group
    is read when it is accessed. Blank responses are kept, so that every row gets its scores.

    Raises:
        DataError: the file is missing or rows are malformed; the message lists every fault with file and line.

    >>> [group.responses for group in read_rows([{"prompt": "2 + 2?", "responses": ["4", "5", "22"]}])]
    [('4', '5', '22')]
    """
    images = open_images(data, images_root)
    row_format = RowFormat(columns=columns, images=images, for_training=False, of_table=True)
    table = open_table(data, columns=columns)
    name = Path(data).name if isinstance(data, str | os.PathLike) else table.label
    return Partition(name, tables={"train": table}, split_fractions={}, row_format=row_format).groups("train")
