"""Reads a tar file in the WebDataset format: the members `key.json`, `key.jpg`, `key.prompt.txt` are one row.

The keys of `key.json` are columns. Any other text or JSON member is a column with the name of its extension, without
the final `.txt` or `.json` (`key.prompt.txt` gives the column `prompt`). Image members become the column `images`, in
the order of their names. If the JSON refers to image members by name, the images replace these names.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from basereward.data.readers import FileTable
from basereward.data.readers.json_lines import MAX_ROW_BYTES, check_rows_file, decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "jp2")
TEXTS = ("txt", "text", "cls", "id")


class WebDataset(FileTable):
    """The samples of an uncompressed tar file. Places and numbers are indices.

    >>> import io
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rows.tar"
    ...     with tarfile.open(file, "w") as archive:
    ...         for name, content in (("01.prompt.txt", b"Hi"), ("01.chosen.txt", b"Hello!")):
    ...             member = tarfile.TarInfo(name)
    ...             member.size = len(content)
    ...             archive.addfile(member, io.BytesIO(content))
    ...     table = WebDataset(file)
    ...     print(table.decode(table.read(0)))
    {'prompt': 'Hi', 'chosen': 'Hello!', '__key__': '01'}
    """

    def scan(self) -> Iterator[tuple[int, int, dict[str, bytes]]]:
        """Yield the samples in the order of their first members."""
        for index in range(len(self._samples)):
            yield index, index, self.read(index)

    def read(self, place: int) -> dict[str, bytes]:
        """Return the contents of a sample by extension, and its key under the empty name."""
        key, members = self._samples[place]
        try:
            with self.path.open("rb") as file:
                contents = {extension: _content(file, *span) for extension, span in members.items()}
        except OSError as error:
            raise DataError(f"cannot read {self.name}: {error.strerror or error}") from error
        return {"": key.encode("utf-8", "surrogateescape"), **contents}

    def decode(self, raw: dict[str, bytes]) -> object:
        """Convert the members of a sample to a row; see `sample_row`."""
        return sample_row(raw)

    def where(self, number: int) -> str:
        """Return the file and the index of the sample."""
        return f"{self.name}, sample {number}"

    @cached_property
    def _samples(self) -> list[tuple[str, dict[str, tuple[int, int]]]]:
        """The key of each sample, and by extension the offset and the size of its members, in bytes."""
        check_rows_file(self.path)
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(self.path, "r:") as file:
                for name, span in _files(file, label=self.label):
                    path = PurePosixPath(name)
                    key, dot, extension = path.name.partition(".")
                    if key and dot:
                        samples.setdefault(str(path.parent / key), {})[extension.lower()] = span
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise DataError(f"cannot read {self.name}: {error}") from error
        return list(samples.items())


def _files(file: tarfile.TarFile, *, label: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name, and (offset, size) in bytes, of every file; links have the span of their target."""
    known: dict[str, tuple[int, int]] = {}
    for member in file:
        span: tuple[int, int] | None = (member.offset_data, member.size)
        if member.islnk() or member.issym():
            start = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
            span = known.get(posixpath.normpath(str(start / member.linkname)))
        elif not member.isfile():
            continue
        # A sparse member is stored without its zeros, so its bytes in the archive are not its content.
        if span is None or member.issparse():
            raise DataError(
                f"{label}: {member.name} is sparse, or a link whose target does not come before it; write plain files"
            )
        known[posixpath.normpath(member.name)] = span
        yield member.name, span
        # tarfile keeps all members, which takes gigabytes for large files.
        file.members.clear()  # type: ignore[attr-defined]


def _content(file: Any, offset: int, size: int) -> bytes:
    """Read a member; of one that is too large, read one byte more than the limit, so that the caller detects it."""
    file.seek(offset)
    content: bytes = file.read(min(size, MAX_ROW_BYTES + 1))
    return content


def sample_row(sample: Mapping[str, bytes]) -> dict[str, Any]:
    """Convert the members of a sample to a row.

    Args:
        sample: contents by extension; the key of the sample under the empty name.

    Raises:
        RowRejected: `row_too_large`, `not_utf8`, `malformed_json`, `conflicting_columns`, or `unsupported_feature` for
            a member that is neither text nor JSON nor an image.

    >>> sample_row({"": b"0001", "prompt.txt": b"Hi", "json": b'{"chosen": "a"}'})
    {'prompt': 'Hi', 'chosen': 'a', '__key__': '0001'}
    """
    row: dict[str, Any] = {}
    images: dict[str, bytes] = {}
    for extension, content in sample.items():
        if len(content) > MAX_ROW_BYTES:
            raise RowRejected("row_too_large", f"the member .{extension} has more than {MAX_ROW_BYTES:,} bytes")
        last = extension.rpartition(".")[2]
        if last in IMAGES:
            images[extension] = content
        elif extension:
            _add(row, _columns(extension, last, content))
    key = sample.get("", b"").decode("utf-8", "replace")
    row.setdefault("__key__", key)
    if images:
        _add_images(row, images, key=PurePosixPath(key).name)
    return row


def _columns(extension: str, last: str, content: bytes) -> dict[str, Any]:
    """Read the columns of a text or JSON member; `last` is the last part of its extension."""
    if last not in ("json", *TEXTS):
        detail = f"the sample has a member .{extension}; only text, JSON and images are read"
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
            "not_an_object", f"the member .json contains {shown(value)}; an object with named columns is needed"
        )
    return value


def _add(row: dict[str, Any], columns: Mapping[str, Any]) -> None:
    """Add columns to a row; each may be given only once."""
    duplicates = [name for name in columns if name in row]
    if duplicates:
        raise RowRejected("conflicting_columns", f"the sample has '{duplicates[0]}' twice: in its JSON and as a member")
    row.update(columns)


def _add_images(row: dict[str, Any], contents: Mapping[str, bytes], *, key: str) -> None:
    """Add the images of a sample to its row: in the place of their names if the JSON names them, else as `images`."""
    column = next((column for column in ("images", "image") if row.get(column)), None)
    if column is None:
        row["images"] = [contents[extension] for extension in sorted(contents, key=_numeric_order)]
        return
    # The JSON may name an image by its extension alone or by its full name, in any case.
    by_name: dict[str, bytes] = {}
    for extension, content in contents.items():
        by_name[extension.lower()] = content
        by_name[f"{key}.{extension}".lower()] = content
    value = row[column]
    names = value if isinstance(value, list) else [value]
    images = []
    for name in names:
        image = by_name.get(name.rpartition("/")[2].lower()) if isinstance(name, str) else None
        if image is None:
            detail = f"`{column}` in its JSON is {shown(value)}, and the sample has the images {', '.join(contents)}"
            raise RowRejected("conflicting_columns", f"{detail}; name these, or omit `{column}`")
        images.append(image)
    row[column] = images


def _numeric_order(extension: str) -> list[tuple[int, str]]:
    """Sort key that compares digits as numbers: `2.jpg` comes before `10.jpg`."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", extension)]
