"""Data files that a JSON file lists, each with the folder of its pictures, as InternVL's sets are published.

{"name": {"annotation": "SET/annotations/a.jsonl", "root": "SET/images/a", "repeat_time": 1, ...}, ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from basereward.data.readers import Table
from basereward.data.readers.joined import Joined
from basereward.data.readers.json_lines import JsonLines
from basereward.data.schema.messages import shown
from basereward.errors import DataError
from basereward.io.limits import read_json


class Rooted:
    """A table whose column `image` holds paths below a folder; as read, they begin with it."""

    def __init__(self, table: Table, *, root: str) -> None:
        self.table = table
        self.root = root

    @property
    def label(self) -> str:
        return self.table.label

    def scan(self) -> Iterator[tuple[int, int, Any]]:
        return self.table.scan()

    def read(self, place: int) -> Any:
        return self.table.read(place)

    def decode(self, raw: Any) -> object:
        row = self.table.decode(raw)
        if not isinstance(row, dict) or not row.get("image"):
            return row
        image = row["image"]
        return row | {"image": [self._below(name) for name in image] if isinstance(image, list) else self._below(image)}

    def where(self, number: int) -> str:
        return self.table.where(number)

    def row_id(self, number: int) -> str:
        return self.table.row_id(number)

    def _below(self, name: object) -> object:
        return f"{self.root}/{name}" if self.root and isinstance(name, str) else name


def find_listed(path: str, listing: str) -> Table:
    """The files of a list as one table. How often a file is to be repeated, and its length, are not looked at.

    Args:
        path: the folder of the data set, its archive of annotations unpacked.
        listing: the name of the list in it. Its paths may begin with folders that are not there, such as that of the
            data set itself: of `annotation` as many are dropped as it takes to find the file, and of `root` as many.

    Raises:
        DataError: there is no such folder, list or file; every file that is missing is named.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"'{path}' is no folder here. What {listing} lists is published in archives: download the repository, "
            "unpack the annotations, join the parts of the images' archive, and give the folder as `path`"
        )
    tables: list[Table] = []
    missing = []
    for name, entry in _entries(folder / listing).items():
        annotation, root = PurePosixPath(entry["annotation"]), PurePosixPath(entry.get("root") or ".")
        dropped = next((n for n in range(len(annotation.parts)) if _inside(folder, annotation, n).is_file()), None)
        if dropped is None:
            missing.append(f"{name}: {annotation}")
        else:
            below = "/".join(root.parts[dropped:])
            tables.append(Rooted(JsonLines(_inside(folder, annotation, dropped)), root=below))
    if missing:
        raise DataError(f"{folder / listing} lists files that are not in {folder}:\n  " + "\n  ".join(missing))
    return Joined(tables)


def _inside(folder: Path, name: PurePosixPath, dropped: int) -> Path:
    return folder.joinpath(*name.parts[dropped:])


def _entries(file: Path) -> dict[str, Mapping[str, Any]]:
    entries = read_json(file)
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{file} holds {shown(entries)}; an object of data files by name is needed")
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("annotation"), str):
            raise DataError(f"{file}: {name} is {shown(entry)}; an object with `annotation` and `root` is needed")
        if ".." in PurePosixPath(entry["annotation"]).parts or entry["annotation"].startswith("/"):
            raise DataError(f"{file}: {name}: {entry['annotation']} is not below the folder")
    return entries
