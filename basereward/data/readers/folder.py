"""The files with rows in a folder, and to which part each belongs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Collection
from pathlib import Path

from basereward.data.readers import Table
from basereward.data.readers.joined import Joined
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.sliced import part_of
from basereward.errors import DataError, unknown
from basereward.io.formats import ARROW, rows_kind

logger = logging.getLogger(__name__)

OF_PICTURES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # the hub's layout of a folder of pictures
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json", "dataset_dict.json")
CONFIGURED = ("configs:", "data_files:")  # in a README.md: the data set says itself which files are which


def folder_table(path: str, *, split: str, numbers: Collection[str]) -> Table | None:
    """The rows of a folder as one table; None where the `datasets` library knows the layout itself: Parquet and Arrow
    files, pictures with a `metadata` file, and folders whose README says which files are which.

    Of a folder with rows and pictures the library would take the more frequent kind, and leave out the rows.

    Raises:
        DataError: the files are of several kinds, or none is of that split.
    """
    folder = Path(os.path.abspath(path))  # as the library names the files in it
    if _is_configured(folder):
        return None
    files = _files_by_part(folder)
    all_files = list(itertools.chain.from_iterable(files.values()))
    pictures = [file for file in all_files if file.name in OF_PICTURES]
    rows = [file for file in all_files if file not in pictures]
    kinds = sorted({_kind(file) for file in rows})
    if len(kinds) > 1 or (pictures and rows):
        names = ", ".join(str(file.relative_to(folder)) for file in all_files[:10])
        raise DataError(f"{path} holds rows of several kinds of files: {names}; say which with `files`, as in *.jsonl")
    if not rows or (kinds[0] in ARROW and not _has_pictures(folder)):
        return None
    part = split.partition("[")[0]
    if part not in files or "+" in split:
        raise DataError(f"{path}: {unknown('split', part, list(files))}")
    if others := _others(folder, all_files):
        logger.warning("%s: not read, since their names tell no part: %s", path, ", ".join(others))
    tables = [RowsFile(file, numbers=numbers) for file in files[part]]
    joined = tables[0] if len(tables) == 1 else Joined(tables)
    return part_of(joined, split.replace(part, "train", 1))


def _kind(file: Path) -> str:
    kind = rows_kind(file)
    assert kind is not None
    return kind


def _others(folder: Path, files: Collection[Path]) -> list[str]:
    """Files with rows that belong to no part."""
    known = {file.resolve() for file in files}
    found = [file for file in sorted(folder.rglob("*")) if rows_kind(file) and file.name not in NO_ROWS]
    return [str(file.relative_to(folder)) for file in found if file.is_file() and file.resolve() not in known]


def _is_configured(folder: Path) -> bool:
    try:
        head = (folder / "README.md").read_bytes()[:100_000].decode("utf-8", "replace")
    except OSError:
        return False
    return head.startswith("---") and any(f"\n{key}" in head for key in CONFIGURED)


def _has_pictures(folder: Path) -> bool:
    suffixes = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    return any(file.suffix.lower() in suffixes for file in folder.rglob("*"))


def _files_by_part(folder: Path) -> dict[str, list[Path]]:
    """Every file with rows, by the part that its name or its folder tells to the `datasets` library."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern

    try:
        patterns = get_data_patterns(str(folder))
    except EmptyDatasetError:
        return {}
    found: dict[str, list[Path]] = {}
    for part, those in patterns.items():
        names: set[str] = set()
        for pattern in those:
            with contextlib.suppress(FileNotFoundError):  # another pattern of the part found a file
                names.update(resolve_pattern(pattern, str(folder)))
        files = [Path(name) for name in sorted(names)]
        files = [file for file in files if rows_kind(file) is not None and file.name not in NO_ROWS]
        if files:
            found[str(part)] = files
    return found
