"""Opens the table of a path, a hub id, or a list of files."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from pathlib import Path

from basereward.data.readers import Table
from basereward.data.readers.arrow import ArrowTable, is_saved
from basereward.data.readers.folder import folder_table
from basereward.data.readers.joined import Joined
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.separated import NUMBERS
from basereward.errors import DataError, nearest
from basereward.io.formats import rows_kind


def find_table(
    path: str,
    *,
    files: Sequence[str] = (),
    subset: str | None = None,
    revision: str | None = None,
    split: str = "train",
    numbers: Collection[str] = NUMBERS,
) -> Table:
    """Open a table. Training, benchmarks, `score`, `look` and `annotate` all use this function.

    Files are listed if patterns or a folder are given; nothing is opened yet.

    Args:
        path: a file, a folder, or a hub id.
        files: names or patterns of files in the folder or repository; empty: those that the `datasets` library finds.
        subset, revision: of a data set on the hub.
        split: the split, or slices of it, such as `train[:100]`.
        numbers: columns of CSV files that contain numbers; other cells are text.

    Raises:
        DataError: the kind of a file is unknown, there is no such split, or no file matches a pattern.
    """
    local = Path(path)
    if files:
        tables: list[Table] = []
        for pattern in files:
            for file in find_files(path, pattern, revision=revision):
                tables.append(RowsFile(file, split=split, numbers=numbers))
        return tables[0] if len(tables) == 1 else Joined(tables)
    if local.is_dir():
        own = None if subset or is_saved(local) else folder_table(path, split=split, numbers=numbers)
        return own or ArrowTable(path, subset=subset, revision=revision, split=split)
    if local.exists() or (rows_kind(local) is not None and subset is None and revision is None):
        return RowsFile(local, split=split, numbers=numbers)
    return ArrowTable(path, subset=subset, revision=revision, split=split)


def find_files(path: str, pattern: str, *, revision: str | None = None) -> list[Path]:
    """Find the files of a folder or hub repository that match a name or pattern, sorted by name.

    Files on the hub are downloaded into its cache.

    Raises:
        DataError: there is no such file.
    """
    folder = Path(path)
    if folder.is_dir():
        names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
        return [folder / name for name in _fitting(names, pattern, path)]
    if folder.is_file():
        raise DataError(f"{path} is a file, and `files` names files in a folder; leave one of the two out")
    return _from_hub(path, pattern, revision=revision)


def _from_hub(path: str, pattern: str, *, revision: str | None) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        literal = not any(mark in pattern for mark in "*?[")
        names = [pattern] if literal else HfApi().list_repo_files(path, repo_type="dataset", revision=revision)
        fitting = _fitting(sorted(names), pattern, path)
        return [Path(hf_hub_download(path, name, repo_type="dataset", revision=revision)) for name in fitting]
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(
            f"'{path}' is no folder here, and {pattern} cannot be fetched from the hub: {error}. "
            "Give `path` a folder of the same layout."
        ) from error


def _fitting(names: Sequence[str], pattern: str, path: str) -> list[str]:
    fitting = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if not fitting:
        close = nearest(pattern, names)
        hint = f"; did you mean {close}?" if close else "."
        raise DataError(f"{path} has no file {pattern}{hint} There are: {', '.join(names[:20]) or 'none'}")
    return fitting
