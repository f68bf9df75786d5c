"""Opens rows that a person gives: a file, a folder, a pattern, a hub id, or an object in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from basereward.data.images.image_store import ImageStore
from basereward.data.readers import Table
from basereward.data.readers.find import find_table, pattern_folder
from basereward.data.readers.in_memory import Rows, in_memory
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.separated import number_columns
from basereward.data.sources.hub import find_images
from basereward.io.formats import is_hub_id, is_pattern

Data: TypeAlias = "str | os.PathLike[str] | Rows"
"""A path, a pattern of paths, a hub id, or rows in memory."""


def open_table(data: Data, *, columns: Mapping[str, str | None] | None = None, split: str = "train") -> Table:
    """Open rows as a table; files are opened when rows are read.

    Args:
        data: the rows.
        columns: our column name -> the name in the data, for the columns of CSV files that contain numbers.
        split: the split of a data set, or a slice, such as `train[:100]`.

    Raises:
        DataError: the rows cannot be opened.

    >>> open_table("pairs.jsonl").label, open_table([{"prompt": "Hi"}]).label
    ('pairs.jsonl', 'rows')
    """
    if not isinstance(data, str | os.PathLike):
        return in_memory(data)
    numbers = number_columns(columns)
    path = Path(data)
    if path.is_dir() or is_pattern(path) or is_hub_id(path):
        return find_table(str(data), numbers=numbers, split=split)
    # Any other suffix counts as JSON Lines, which text files often are.
    return RowsFile(path, numbers=numbers, split=split, otherwise=".jsonl")


def open_images(data: Data, root: str | Path | None = None) -> ImageStore:
    """Make the store of the images that rows name by relative paths.

    Args:
        data: the rows.
        root: the folder that relative paths start from; None: the folder of the file, the folder itself, that before
            the first wildcard of a pattern, or the working folder for rows in memory.

    >>> str(open_images("data/pairs.jsonl").root), str(open_images("data/*/pairs.jsonl").root)
    ('data', 'data')
    """
    if root is not None or not isinstance(data, str | os.PathLike):
        return ImageStore(root)
    if is_hub_id(str(data)):
        return find_images(str(data), None)
    if is_pattern(str(data)):
        return ImageStore(pattern_folder(str(data)))
    path = Path(data)
    return ImageStore(path if path.is_dir() else path.parent)
