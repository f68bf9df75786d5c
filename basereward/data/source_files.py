"""The files that a source reads, which no output of a command may overwrite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Group, image_files
from basereward.errors import DataError
from basereward.io.outputs import check_outputs
from basereward.recipe.schema import Node

# Arguments of sources that may name a file, and those that may name a folder.
FILE_ARGUMENTS = ("path", "val", "test", "listing", "images")
FOLDER_ARGUMENTS = ("path", "images", "images_root")


def source_inputs(source: str, node: Node) -> list[Path]:
    """Find the local files and folders that the arguments of a source name.

    Args:
        source: the name of the source, which may be the path of a file.
        node: its arguments.

    >>> source_inputs("digits", {"_target_": "digits"})
    []
    """
    # Some sources take further paths relative to `path`.
    base = Path(str(node.get("path", "")))
    inputs = [Path(source)] if Path(source).is_file() else []
    for argument in {*FILE_ARGUMENTS, *FOLDER_ARGUMENTS}:
        for name in _texts(node.get(argument)):
            inputs += [path for path in (Path(name), base / name) if _is_input(path, argument)]
    return inputs


def check_source_outputs(
    outputs: Mapping[str, Path],
    source: str,
    node: Node,
    groups: Iterable[Group],
    *,
    also: Iterable[Path] = (),
    folders: Mapping[str, Path] | None = None,
    writes_rows: bool = True,
) -> None:
    """Check the outputs of a command that reads a source, before anything is written.

    Args:
        outputs: what each file is called in messages -> its path.
        source: as for `source_inputs`.
        node: as for `source_inputs`.
        groups: whose image files are inputs; they are read only if an output exists.
        also: further inputs. No output may lie in a folder among them, such as that of a model.
        folders: as `outputs`, for folders that are written.
        writes_rows: whether the outputs are rows, which the next call would read in a folder of rows.

    Raises:
        DataError: an output would overwrite an input, is in a folder of rows, or is of the other kind, file or folder.

    >>> check_source_outputs({"--out": Path("/")}, "digits", {}, [])
    Traceback (most recent call last):
    basereward.errors.DataError: --out '/' is a folder; give the name of a file
    """
    folders = folders or {}
    _check_kinds(outputs, folders)
    # A new file in such a folder would be read as rows by the next call.
    row_folders = [Path(name) for name in _texts(node.get("path")) if writes_rows and Path(name).is_dir()]
    further = list(also)
    read_whole = [*row_folders, *(path for path in further if path.is_dir())]
    check_outputs({**outputs, **folders}, [*source_inputs(source, node), *further], read_whole=read_whole)
    # Apart from the others: a folder that is written again holds no picture of a row.
    check_outputs(outputs, image_files(groups))


def _check_kinds(outputs: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
    for name, path in outputs.items():
        if path.is_dir():
            raise DataError(f"{name} '{path}' is a folder; give the name of a file")
    for name, path in folders.items():
        if path.exists() and not path.is_dir():
            raise DataError(f"{name} '{path}' is a file, and a folder belongs there; give another name")


def _is_input(path: Path, argument: str) -> bool:
    return (argument in FILE_ARGUMENTS and path.is_file()) or (argument in FOLDER_ARGUMENTS and path.is_dir())


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
