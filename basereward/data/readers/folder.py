"""Opens the files with rows in a folder, sorted into splits by the rules of the `datasets` library."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from basereward.data.readers import Table
from basereward.data.readers.joined import concatenate
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.sliced import part_of
from basereward.errors import DataError, unknown
from basereward.io.files import files_below
from basereward.io.formats import ARROW, rows_kind

logger = logging.getLogger(__name__)

# Files of the hub's layout ImageFolder, which give the columns of the images next to them.
IMAGE_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# JSON files without rows, which the `datasets` and `transformers` libraries write.
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json", "dataset_dict.json")
# Keys in the header of a README.md with which a data set declares its files itself.
CONFIG_KEYS = ("configs:", "data_files:")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def folder_table(path: str, *, split: str, numbers: Collection[str]) -> Table | None:
    """Open the files of one split in a folder as one table.

    The `datasets` library cannot read folders with both rows and images: it takes the more frequent kind of file and
    ignores the others, which may be the rows.

    Args:
        path: the folder.
        split: the split, or a slice of it, such as `train[:100]`.
        numbers: columns of CSV files that contain numbers.

    Returns:
        The table; None for a folder that the `datasets` library reads correctly: without rows, with Parquet or Arrow
        files and no images, with images and a `metadata` file, or with a README that declares the files.

    Raises:
        DataError: the files are of several kinds, or none of them belongs to the split.
    """
    # The library returns absolute paths, and paths of both must be comparable.
    folder = Path(os.path.abspath(path))
    if _has_configured_files(folder):
        return None
    files_by_split = _files_by_split(folder)
    files = list(itertools.chain.from_iterable(files_by_split.values()))
    kind = _kind_of_rows(files, folder=folder, path=path)
    if kind is None or (kind in ARROW and not _has_images(folder)):
        return None
    name = split.partition("[")[0]
    if name not in files_by_split or "+" in split:
        raise DataError(f"{path}: {unknown('split', name, list(files_by_split))} Set `split` to one of these.")
    if others := _files_without_split(folder, files):
        logger.warning("%s: not read, because their names contain no split: %s", path, ", ".join(others))
    table = concatenate([RowsFile(file, numbers=numbers) for file in files_by_split[name]])
    # A file has only the split `train`, so the slice is taken of that.
    return part_of(table, split.replace(name, "train", 1))


def _kind_of_rows(files: Sequence[Path], *, folder: Path, path: str) -> str | None:
    """Return the kind of the files with rows, one of `io.formats.ROWS`; None if there are none.

    Raises:
        DataError: the files are of several kinds.
    """
    kinds: set[str | None] = set()
    has_image_metadata = False
    for file in files:
        if file.name in IMAGE_METADATA:
            has_image_metadata = True
        else:
            kinds.add(rows_kind(file))
    if len(kinds) + has_image_metadata > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:10])
        raise DataError(
            f"{path} contains rows in several kinds of files: {names}; select one kind with `files`, such as *.jsonl"
        )
    return kinds.pop() if kinds else None


def _files_without_split(folder: Path, files: Collection[Path]) -> list[str]:
    """List the files with rows that belong to no split, relative to the folder."""
    # Resolved, because a symbolic link and its target are the same file.
    known = {file.resolve() for file in files}
    others = []
    for file in files_below(folder):
        if _has_rows(file) and file.resolve() not in known:
            others.append(str(file.relative_to(folder)))
    return others


def _has_rows(file: Path) -> bool:
    """Whether a file has rows, by its name."""
    return rows_kind(file) is not None and file.name not in NO_ROWS


def _has_configured_files(folder: Path) -> bool:
    """Whether the YAML header of the folder's README declares the files of the data set."""
    try:
        head = (folder / "README.md").read_bytes()[:100_000].decode("utf-8", "replace")
    except OSError:
        return False
    return head.startswith("---") and any(f"\n{key}" in head for key in CONFIG_KEYS)


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_SUFFIXES for file in files_below(folder))


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    """List the files with rows of each split, which the `datasets` library derives from their names and folders."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern

    try:
        patterns_by_split = get_data_patterns(str(folder))
    except EmptyDatasetError:
        return {}
    files_by_split: dict[str, list[Path]] = {}
    for split, patterns in patterns_by_split.items():
        names: set[str] = set()
        for pattern in patterns:
            # A pattern may match nothing as long as another pattern of the split matches.
            with contextlib.suppress(FileNotFoundError):
                names.update(resolve_pattern(pattern, str(folder)))
        files = [file for file in map(Path, sorted(names)) if _has_rows(file)]
        if files:
            files_by_split[str(split)] = files
    return files_by_split
