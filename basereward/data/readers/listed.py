"""Opens data files that a JSON file lists, each with the folder of its images: the format of the InternVL data sets.

{"name": {"annotation": "SET/annotations/a.jsonl", "root": "SET/images/a", "repeat_time": 1, ...}, ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from basereward.data.readers import Table, TableWrapper
from basereward.data.readers.joined import Joined
from basereward.data.readers.json_lines import JsonLines
from basereward.data.schema.messages import shown
from basereward.errors import DataError
from basereward.io.limits import read_json


class ImageRootTable(TableWrapper):
    """A table whose column `image` contains paths relative to a folder; decoded rows have the folder in front.

    Args:
        table: the inner table.
        root: the folder; empty: the paths stay as they are.

    >>> table = ImageRootTable(JsonLines("a.jsonl"), root="images/a")
    >>> table.decode(b'{"image": ["1.png", "2.png"]}')
    {'image': ['images/a/1.png', 'images/a/2.png']}
    """

    def __init__(self, table: Table, *, root: str) -> None:
        super().__init__(table)
        self.root = root

    def decode(self, raw: Any) -> object:
        """Convert raw content to a row, with the folder in front of its image paths."""
        row = self.table.decode(raw)
        if not isinstance(row, dict) or not row.get("image"):
            return row
        image = row["image"]
        paths = [self._with_root(name) for name in image] if isinstance(image, list) else self._with_root(image)
        return row | {"image": paths}

    def _with_root(self, name: object) -> object:
        return f"{self.root}/{name}" if self.root and isinstance(name, str) else name


def find_listed(path: str, listing: str) -> Table:
    """Open all files of a listing as one table. Its keys `repeat_time` and `length` are ignored.

    Args:
        path: the folder of the data set, in which the archive of annotations has been unpacked.
        listing: the name of the listing in this folder. Its paths may begin with folders that do not exist here, such
            as the name of the data set. Leading folders of `annotation` are dropped until the file is found, and the
            same number of leading folders is dropped from `root`.

    Raises:
        DataError: the folder or the listing does not exist, or listed files are missing; the message names all of them.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"'{path}' is not a folder on this machine. The files that {listing} lists are published in archives: "
            "download the repository, unpack the annotations, join the parts of the images' archive, and give the "
            "folder as `path`"
        )
    tables: list[Table] = []
    missing = []
    for name, entry in _entries(folder / listing).items():
        annotation, root = PurePosixPath(entry["annotation"]), PurePosixPath(entry.get("root") or ".")
        num_dropped = _num_missing_folders(annotation, folder=folder)
        if num_dropped is None:
            missing.append(f"{name}: {annotation}")
            continue
        file = folder.joinpath(*annotation.parts[num_dropped:])
        tables.append(ImageRootTable(JsonLines(file), root="/".join(root.parts[num_dropped:])))
    if missing:
        raise DataError(f"{folder / listing} lists files that are not in {folder}:\n  " + "\n  ".join(missing))
    return Joined(tables)


def _num_missing_folders(name: PurePosixPath, *, folder: Path) -> int | None:
    """Count the leading folders of a path that must be dropped to find the file; None if there is no such file."""
    for num_dropped in range(len(name.parts)):
        if folder.joinpath(*name.parts[num_dropped:]).is_file():
            return num_dropped
    return None


def _entries(file: Path) -> dict[str, Mapping[str, Any]]:
    """Read and check a listing."""
    entries = read_json(file)
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{file} contains {shown(entries)}; an object of data files by name is needed")
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("annotation"), str):
            raise DataError(f"{file}: {name} is {shown(entry)}; an object with `annotation` and `root` is needed")
        # A downloaded listing must not make us read files elsewhere on the machine.
        if ".." in PurePosixPath(entry["annotation"]).parts or entry["annotation"].startswith("/"):
            raise DataError(f"{file}: {name}: {entry['annotation']} is not below the folder")
    return entries
