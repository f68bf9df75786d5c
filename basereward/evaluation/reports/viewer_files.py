"""What the page of `look` holds itself, and the files beside it that it loads when a reader asks for their rows."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import tempfile
import urllib.parse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import PIL.Image

from basereward.data.images.open_images import MAX_PIXELS, open_image, read_image
from basereward.data.schema.group import Image
from basereward.evaluation.reports.page import as_json
from basereward.evaluation.reports.thumbnails import MAX_SIDE, Album, encoded
from basereward.io.outputs import check_replaceable, foreign_files, replace_folder

# Bytes of rows and pictures that a page holds itself; it also has an index of all rows, some 20 bytes each.
EMBEDDED_BYTES = 2_500_000
# Rows of a file beside the page. A page loads whole files, and the rows of a search may be in all of them.
CHUNK_ROWS = 200
OUR_FILES = re.compile(r"rows-\d+\.js|pictures/\d+\.(png|jpeg|webp|gif|bmp|avif)")
# Formats that every browser shows.
WEB_FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}

Picture: TypeAlias = "int | dict[str, Any]"
# What Pillow's parsers raise for a damaged header.
HEADER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(struct.error, PIL.Image.DecompressionBombError),
)


def folder_beside(page: Path) -> Path:
    """The folder of the files of a page.

    >>> folder_beside(Path("digits.look.html")).name
    'digits.look.files'
    """
    return page.with_suffix(".files")


class ViewerFiles:
    """The rows and pictures of a page, in their order: the first ones in the page, the others in files beside it.

    Args:
        page: the page; None: it holds everything itself.
        limit: bytes of rows and pictures that the page holds itself.

    Attributes:
        rows: those in the page, as plain data.
        album: the pictures in the page.
        chunks: the number of files with further rows.

    >>> files = ViewerFiles(None)
    >>> files.add({"id": "a", "images": []})
    >>> files.rows, files.chunks
    ([{'id': 'a', 'images': []}], 0)
    """

    def __init__(self, page: Path | None, *, limit: int = EMBEDDED_BYTES) -> None:
        self.rows: list[dict[str, Any]] = []
        self.album = Album()
        self.chunks = 0
        self._page = page
        self._left = limit
        self._chunk: list[dict[str, Any]] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._num_files = 0
        self._uris: dict[str, str] = {}

    @property
    def folder(self) -> Path | None:
        """The folder of the files beside the page; None if the page holds everything itself."""
        return None if self._page is None else folder_beside(self._page)

    @property
    def is_full(self) -> bool:
        """Whether the page holds as much as it may, so that rows and pictures go to files."""
        return self._page is not None and self._left <= 0

    def check(self) -> None:
        """Check that the folder of the files may be replaced.

        Raises:
            DataError: it holds files that this project did not write.
        """
        if self.folder is not None and os.path.lexists(self.folder):
            check_replaceable(self.folder, foreign=lambda path: foreign_files(path, _is_ours))

    def pictures(self, images: Sequence[Image], *, side: int) -> list[Picture]:
        """Make the pictures of a row available to the page.

        Args:
            images: of the row.
            side: the maximum width and height of a copy inside the page, in pixels.

        Returns:
            A picture inside the page by its number in the album; one in a file by `uri`, and `width` and `height` in
            the data.

        Raises:
            ImageError: an image is missing, damaged or too large.
        """
        if self.is_full:
            return [self._picture_file(image) for image in images]
        return [self._embedded(image, side=side) for image in images]

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, whose pictures were made available before it.

        Args:
            row: plain data.
        """
        # The row whose pictures filled the page belongs to it.
        if not self.is_full or any(isinstance(picture, int) for picture in row["images"]):
            self.rows.append(row)
            self._left -= len(as_json(row)) if self._page is not None else 0
            return
        self._chunk.append(row)
        if len(self._chunk) == CHUNK_ROWS:
            self._write_chunk()

    def finish(self) -> dict[str, Any] | None:
        """Move the files to their folder.

        Returns:
            `folder`, relative to the page; `rows`, of a file; `chunks`, the number of files. None without files.
        """
        if self._chunk:
            self._write_chunk()
        if self._temporary is None or self.folder is None:
            return None
        # `mkdtemp` makes folders that only their owner may read, and a page may be shared.
        os.chmod(self._temporary.name, 0o755)
        replace_folder(Path(self._temporary.name), self.folder)
        return {"folder": urllib.parse.quote(self.folder.name), "rows": CHUNK_ROWS, "chunks": self.chunks}

    def _embedded(self, image: Image, *, side: int) -> int:
        before = len(self.album.pictures)
        place = self.album.add(open_image(image), side=side)
        if len(self.album.pictures) > before:
            self._left -= len(self.album.pictures[place]["uri"])
        return place

    def _write_chunk(self) -> None:
        # A script, because a page that was opened as a file may load scripts and pictures beside it, and nothing else.
        file = self._place(f"rows-{self.chunks}.js")
        file.write_text(f"addRows({self.chunks},{as_json(self._chunk)});\n", encoding="ascii")
        self.chunks += 1
        self._chunk = []

    def _place(self, name: str) -> Path:
        """The path of a file, in a temporary folder until all files are written."""
        assert self.folder is not None
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(
                dir=self.folder.parent, prefix=f".{self.folder.name}-", ignore_cleanup_errors=True
            )
            Path(self._temporary.name, "pictures").mkdir()
        return Path(self._temporary.name, name)

    def _picture_file(self, image: Image) -> Picture:
        header = _web_header(image)
        if header is not None and isinstance(image, str | Path):
            width, height, _ = header
            return {"uri": self._link(Path(image)), "width": width, "height": height}
        if header is not None and not isinstance(image, PIL.Image.Image):
            width, height, kind = header
            content = read_image(image)
            assert isinstance(content, bytes)
            return {"uri": self._written(content, kind), "width": width, "height": height}
        opened = open_image(image)
        content, kind = encoded(opened, side=MAX_SIDE)
        return {"uri": self._written(content, kind), "width": opened.width, "height": opened.height}

    def _link(self, file: Path) -> str:
        assert self._page is not None
        relative = os.path.relpath(file, self._page.parent)
        return urllib.parse.quote(Path(relative).as_posix())

    def _written(self, content: bytes, kind: str) -> str:
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        if digest not in self._uris:
            name = f"pictures/{self._num_files}.{kind}"
            self._place(name).write_bytes(content)
            self._num_files += 1
            assert self.folder is not None
            self._uris[digest] = f"{urllib.parse.quote(self.folder.name)}/{name}"
        return self._uris[digest]


def _is_ours(name: str) -> bool:
    return OUR_FILES.fullmatch(name) is not None


def _web_header(image: Image) -> tuple[int, int, str] | None:
    """Width, height and format of an image file that browsers show, from its header; None for any other image.

    The rest of the file is not read, which makes a hundred thousand pictures possible.

    Raises:
        ImageError: the file is missing.
    """
    if isinstance(image, PIL.Image.Image):
        return None
    if isinstance(image, str | Path):
        if not os.path.isfile(image):
            # Raises with the reason.
            open_image(image)
        source: Any = image
    else:
        content = read_image(image)
        assert isinstance(content, bytes)
        source = io.BytesIO(content)
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(source, formats=tuple(WEB_FORMATS)) as opened:
            if opened.format not in WEB_FORMATS or opened.width * opened.height > MAX_PIXELS:
                return None
            return opened.width, opened.height, WEB_FORMATS[opened.format]
    except HEADER_ERRORS:
        # Any other format, or a damaged file: `open_image` decides, and has the message.
        return None
