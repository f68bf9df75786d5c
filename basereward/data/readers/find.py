"""Opens the table of a path, a hub id, or a list of files."""

from __future__ import annotations

import fnmatch
import glob
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import cast

from basereward.data.readers import Table
from basereward.data.readers.arrow import ArrowTable, is_saved
from basereward.data.readers.folder import folder_table
from basereward.data.readers.joined import concatenate
from basereward.data.readers.rows_file import RowsFile
from basereward.data.readers.separated import NUMBERS
from basereward.errors import DataError, format_count, nearest, sentence
from basereward.io.files import files_below
from basereward.io.formats import is_pattern, rows_kind

SHOWN_FILES = 20
"""The most files that a message names."""


FILES_ADVICE = "Set `files` to the names of those that hold the rows."


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

    Patterns are matched and folders are listed here; files are opened when rows are read.

    Args:
        path: a file, a folder, a pattern of files such as `data/*.jsonl`, or a hub id.
        files: names or patterns of files in the folder or repository; empty: those that the `datasets` library finds.
        subset, revision: of a data set on the hub.
        split: the split, or slices of it, such as `train[:100]`.
        numbers: columns of CSV files that contain numbers; other cells are text.

    Raises:
        DataError: the kind of a file is unknown, there is no such split, or no file matches a pattern.

    >>> find_table("pairs.jsonl").label, find_table("trl-lib/rlaif-v", split="train[:10]").label
    ('pairs.jsonl', 'trl-lib/rlaif-v [train[:10]]')
    """
    local = Path(path)
    if files or is_pattern(path):
        listed = _listed_files(path, files, revision=revision) if files else matching_files(path)
        return concatenate([RowsFile(file, split=split, numbers=numbers) for file in listed])
    if _is_rows_file(local, on_hub=subset is not None or revision is not None):
        return RowsFile(local, split=split, numbers=numbers)
    of_folder = None if subset else _folder_table(local, split=split, numbers=numbers)
    return of_folder or ArrowTable(path, subset=subset, revision=revision, split=split)


def _folder_table(path: Path, *, split: str, numbers: Collection[str]) -> Table | None:
    """Open a local folder; None if the path is none, or one that the `datasets` library reads correctly."""
    if not path.is_dir() or is_saved(path):
        return None
    return folder_table(str(path), split=split, numbers=numbers)


def _listed_files(path: str, patterns: Sequence[str], *, revision: str | None) -> list[Path]:
    listed: list[Path] = []
    for pattern in patterns:
        listed += find_files(path, pattern, revision=revision, advice=FILES_ADVICE)
    return listed


def _is_rows_file(path: Path, *, on_hub: bool) -> bool:
    """Whether a path is that of a local file with rows.

    Args:
        path: the path.
        on_hub: whether a subset or a revision is given, which only data sets on the hub have.
    """
    if path.is_dir():
        return False
    # A missing file with the suffix of a file with rows is a wrong path, not a hub id: the error must name the file.
    return path.exists() or (rows_kind(path) is not None and not on_hub)


def matching_files(pattern: str) -> list[Path]:
    """List the files on this machine that match a pattern, sorted by name; `**` stands for any number of folders.

    Raises:
        DataError: no file matches.

    >>> matching_files("no/such/*.jsonl")
    Traceback (most recent call last):
    basereward.errors.DataError: no file matches 'no/such/*.jsonl'; relative patterns start from ...
    """
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not files:
        raise DataError(f"no file matches '{pattern}'; relative patterns start from {Path.cwd()}")
    return files


def pattern_folder(pattern: str) -> Path:
    """Return the folder of a pattern: its parts before the first one with a wildcard.

    >>> str(pattern_folder("data/2024-*/rows.jsonl"))
    'data'
    """
    folder = Path(pattern)
    while is_pattern(folder):
        folder = folder.parent
    return folder


def find_files(path: str, pattern: str, *, revision: str | None = None, advice: str = "") -> list[Path]:
    """Find the files of a folder or hub repository that match a name or pattern, sorted by name.

    Files on the hub are downloaded into its cache.

    Args:
        path: the folder or the hub id.
        pattern: the name or pattern.
        revision: of a repository.
        advice: the end of the message if there is no such file: what to set.

    Raises:
        DataError: there is no such file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.jsonl", "a.jsonl", "a.txt"):
    ...         _ = (Path(folder) / name).write_text("")
    ...     print([file.name for file in find_files(folder, "*.jsonl")])
    ['a.jsonl', 'b.jsonl']
    """
    folder = Path(path)
    if folder.is_dir():
        names = [str(file.relative_to(folder)) for file in files_below(folder)]
        return [folder / name for name in _matching(names, pattern, path, advice=advice)]
    if folder.is_file():
        raise DataError(f"{path} is a file, but `files` names files in a folder; give a folder or omit `files`")
    return _from_hub(path, pattern, revision=revision, advice=advice)


def _from_hub(path: str, pattern: str, *, revision: str | None, advice: str) -> list[Path]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The bases are OSError and that of all errors of the HTTP library, as of a machine without a network.
    hub_errors = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, HFValidationError))
    try:
        # Listing a repository takes a request, which a plain name does not need.
        literal = not any(mark in pattern for mark in "*?[")
        names = [pattern] if literal else HfApi().list_repo_files(path, repo_type="dataset", revision=revision)
        matching = _matching(sorted(names), pattern, path, advice=advice)
        return [Path(hf_hub_download(path, name, repo_type="dataset", revision=revision)) for name in matching]
    except hub_errors as error:
        raise DataError(
            f"'{path}' is not a folder on this machine, and {pattern} cannot be downloaded from the hub: "
            f"{sentence(error)} Set `path` to a local folder with the same files."
        ) from error


def _matching(names: Sequence[str], pattern: str, path: str, *, advice: str) -> list[str]:
    """Select the names that match a pattern.

    Raises:
        DataError: none does.
    """
    matching = [name for name in names if fnmatch.fnmatch(name, pattern)]
    if not matching:
        close = nearest(pattern, names)
        hint = f"; did you mean {close}?" if close else "."
        found = f"Files found: {_shown_files(names)}."
        raise DataError(" ".join(filter(None, [f"{path} has no file {pattern}{hint}", found, advice])))
    return matching


def _shown_files(names: Sequence[str]) -> str:
    """Some of many names, those of the rarest kinds first: hundreds of images must not hide the file with the rows.

    >>> _shown_files(["1.png", "2.png", "rows.jsonl"]), _shown_files([])
    ('rows.jsonl, 1.png, 2.png', 'none')
    """
    kinds = Counter(Path(name).suffix.lower() for name in names)
    ordered = sorted(names, key=lambda name: (kinds[Path(name).suffix.lower()], name))
    more = f" and {format_count(len(names) - SHOWN_FILES, 'other')}" if len(names) > SHOWN_FILES else ""
    return f"{', '.join(ordered[:SHOWN_FILES])}{more}" if names else "none"
