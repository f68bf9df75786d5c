"""Which files a source reads, so that no output takes the place of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Group
from basereward.errors import DataError
from basereward.io.outputs import check_outputs
from basereward.recipe.schema import Node

FILES = ("path", "val", "test", "listing", "images")  # arguments of sources that may name a file
FOLDERS = ("path", "images", "images_root")  # or a folder


def source_inputs(given: str, node: Node) -> list[Path]:
    """The local files and folders that a source reads, as far as its arguments name them.

    Args:
        given: the word that named the source, which may be the path of a file.
        node: its arguments.
    """
    base = Path(str(node.get("path", "")))
    found = [Path(given)] if Path(given).is_file() else []
    for key in {*FILES, *FOLDERS}:
        for name in _texts(node.get(key)):
            for path in (Path(name), base / name):
                if (key in FILES and path.is_file()) or (key in FOLDERS and path.is_dir()):
                    found.append(path)
    return found


def pictures(groups: Iterable[Group]) -> Iterator[Path]:
    """The picture files of groups."""
    return (Path(image) for group in groups for image in group.images if isinstance(image, str | Path))


def check_source_outputs(
    outputs: dict[str, Path], given: str, node: Node, groups: Iterable[Group], *, also: Iterable[Path] = ()
) -> None:
    """Checks the outputs of a command that reads a source, before anything is written.

    Args:
        also: further inputs.

    Raises:
        DataError: an output would overwrite an input, lies in a folder of rows, or is itself a folder.
    """
    for name, path in outputs.items():
        if path.is_dir():
            raise DataError(f"{name} '{path}' is a folder; give the name of a file")
    whole = [Path(name) for name in _texts(node.get("path")) if Path(name).is_dir()]
    check_outputs(outputs, chain(source_inputs(given, node), also, pictures(groups)), read_whole=whole)


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
