"""A tar of samples in the manner of WebDataset: the members `key.json`, `key.jpg`, `key.prompt.txt` are one row.

The keys of `key.json` are columns. Another text or JSON file is a column of its extension's name, without `.txt` or
`.json` where more comes before it. Pictures are the row's `image`, or `images` in the order of their names; where the
JSON names pictures of the sample itself, they are put in the place of their names.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from basereward.data.readers.json_lines import MAX_ROW_BYTES, check_rows_file, decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2")
TEXTS = ("txt", "text", "cls", "id")


class WebDataset:
    """The samples of a tar: a place is an index, and so is its number.

    Args:
        path: a tar that is not compressed.
        name: what messages call it; by default its path.
    """

    def __init__(self, path: str | Path, *, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = Path(path if name is None else name)

    @property
    def label(self) -> str:
        return str(self.name)

    def scan(self) -> Iterator[tuple[int, int, dict[str, bytes]]]:
        for index in range(len(self._samples)):
            yield index, index, self.read(index)

    def read(self, place: int) -> dict[str, bytes]:
        """The contents by extension, and the key under the empty name."""
        key, members = self._samples[place]
        try:
            with self.path.open("rb") as file:
                contents = {extension: _content(file, *where) for extension, where in members.items()}
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error
        return {"": key.encode("utf-8", "surrogateescape"), **contents}

    def decode(self, raw: dict[str, bytes]) -> object:
        return sample_row(raw)

    def where(self, number: int) -> str:
        return f"{self.name}, sample {number}"

    def row_id(self, number: int) -> str:
        return f"{self.name.name}:{number}"

    @cached_property
    def _samples(self) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        """The key of each sample, and by extension where its members begin and how long they are, in bytes."""
        check_rows_file(self.path)
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(self.path, "r:") as file:
                for name, where in _files(file, label=self.label):
                    path = PurePosixPath(name)
                    key, dot, extension = path.name.partition(".")
                    if key and dot:
                        samples.setdefault(str(path.parent / key), {})[extension.lower()] = where
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise DataError(f"cannot read {self.name}: {error}") from error
        return list(samples.items())


def _files(file: tarfile.TarFile, *, label: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The name of every file, and where its content begins and how long it is; a link is the file that it leads to."""
    known: dict[str, tuple[int, int]] = {}
    for member in file:
        where: tuple[int, int] | None = (member.offset_data, member.size)
        if member.islnk() or member.issym():
            start = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
            where = known.get(posixpath.normpath(str(start / member.linkname)))
        elif not member.isfile():
            continue
        if where is None or member.issparse():
            raise DataError(f"{label}: {member.name} is a link to what is not before it, or sparse; write plain files")
        known[posixpath.normpath(member.name)] = where
        yield member.name, where
        file.members.clear()  # type: ignore[attr-defined]  # the library would keep every one of them


def _content(file: Any, offset: int, size: int) -> bytes:
    """One byte more than is allowed of a member that is too large, so that it is known for what it is."""
    file.seek(offset)
    content: bytes = file.read(min(size, MAX_ROW_BYTES + 1))
    return content


def sample_row(sample: Mapping[str, bytes]) -> dict[str, Any]:
    """The row of a sample.

    Args:
        sample: contents by extension; the key under the empty name.

    Raises:
        RowRejected: `row_too_large`, `not_utf8`, `malformed_json`, `conflicting_columns`, or `unsupported_feature` for
            a member that is no text, JSON or picture.
    """
    row: dict[str, Any] = {}
    pictures: dict[str, bytes] = {}
    for extension, content in sample.items():
        if len(content) > MAX_ROW_BYTES:
            raise RowRejected("row_too_large", f"the member .{extension} has more than {MAX_ROW_BYTES:,} bytes")
        last = extension.rpartition(".")[2]
        if last in PICTURES:
            pictures[extension] = content
        elif extension:
            _add(row, _columns(extension, last, content))
    key = sample.get("", b"").decode("utf-8", "replace")
    row.setdefault("__key__", key)
    if pictures:
        _add_pictures(row, pictures, key=PurePosixPath(key).name)
    return row


def _columns(extension: str, last: str, content: bytes) -> dict[str, Any]:
    if last not in ("json", *TEXTS):
        detail = f"the sample has a member .{extension}; only text, JSON and pictures are read"
        raise RowRejected("unsupported_feature", detail)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RowRejected("not_utf8", f"the member .{extension} is not UTF-8") from None
    column = extension.removesuffix(f".{last}")
    if last != "json":
        return {column: text.rstrip("\n")}
    value = decode_json(text)
    if extension != "json":
        return {column: value}
    if not isinstance(value, dict):
        raise RowRejected(
            "not_an_object", f"the member .json holds {shown(value)}; an object with named columns is needed"
        )
    return value


def _add(row: dict[str, Any], columns: Mapping[str, Any]) -> None:
    twice = [name for name in columns if name in row]
    if twice:
        raise RowRejected("conflicting_columns", f"the sample gives '{twice[0]}' twice: in its JSON and as a member")
    row.update(columns)


def _add_pictures(row: dict[str, Any], pictures: Mapping[str, bytes], *, key: str) -> None:
    named = {name: content for ext, content in pictures.items() for name in (ext, f"{key}.{ext}")}
    given = next((column for column in ("images", "image") if row.get(column)), None)
    if given is None:
        ordered = [pictures[extension] for extension in sorted(pictures, key=_in_order)]
        row["images"] = ordered
        return
    value = row[given]
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name.rpartition("/")[2].lower() in _lower(named) for name in names):
        detail = f"`{given}` of its JSON is {shown(value)}, and the sample has the pictures {', '.join(pictures)}"
        raise RowRejected("conflicting_columns", f"{detail}; name these, or leave `{given}` out")
    row[given] = [_lower(named)[name.rpartition("/")[2].lower()] for name in names]


def _lower(named: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name.lower(): content for name, content in named.items()}


def _in_order(extension: str) -> list[tuple[int, str]]:
    """Numbers count as numbers: `2.jpg` comes before `10.jpg`."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", extension)]
