"""The images of a selection: files in formats that browsers show, named by their content."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema.group import ArchivedImage, Image, Visual
from basereward.errors import DataError
from basereward.io.files import write_atomic
from basereward.io.hashing import file_sha256

IMAGES = "images"
"""The folder of the images, beside the rows."""
# Formats that every browser shows -> suffix and media type.
WEB_FORMATS = {
    "PNG": ("png", "image/png"),
    "JPEG": ("jpg", "image/jpeg"),
    "WEBP": ("webp", "image/webp"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
}
MEDIA_TYPES = dict(WEB_FORMATS.values())
NAME_DIGITS = 32
NAME = re.compile(rf"[0-9a-f]{{{NAME_DIGITS}}}\.(png|jpg|webp|gif|bmp)")
"""The form of the names of all files in the folder."""


class PictureFolder:
    """The folder `images` of a selection or a benchmark.

    Args:
        folder: of the rows; `images` is made in it with the first image.

    >>> import tempfile
    >>> pictures = PictureFolder(Path(tempfile.mkdtemp()))
    >>> name = pictures.copy(PIL.Image.new("RGB", (4, 2)))
    >>> name == pictures.copy(PIL.Image.new("RGB", (4, 2))), name.startswith("images/"), name.endswith(".png")
    (True, True, True)
    """

    def __init__(self, folder: Path) -> None:
        self._rows_folder = folder.absolute()
        self.folder = folder / IMAGES

    def locate(self, image: Visual) -> tuple[str, Path | ArchivedImage]:
        """Check that an image can be opened, and give it a place on the disk, where it is not in memory.

        Returns:
            A hash of its content, and its place: where it is, or a copy in the folder if it has no file.

        Raises:
            ImageError: it cannot be opened.
        """
        content = read_image(image)
        if isinstance(content, bytes):
            open_image(content)
            digest = hashlib.sha256(content).hexdigest()
        else:
            digest = hashlib.sha256(f"{content.mode} {content.size}".encode() + content.tobytes()).hexdigest()
        if isinstance(image, ArchivedImage):
            return digest, image
        if isinstance(image, str | Path):
            # Absolute, because the working folder of a later call may be another one.
            return digest, Path(image).absolute()
        return digest, self._rows_folder / self.copy(content)

    def copy(self, image: Image) -> str:
        """Copy an image to the folder; in a format that browsers do not show, as PNG.

        Returns:
            Its path relative to the rows, such as `images/0123456789abcdef0123456789abcdef.png`.

        Raises:
            ImageError: it cannot be opened.
        """
        content, suffix = web_file(read_image(image))
        name = f"{hashlib.sha256(content).hexdigest()[:NAME_DIGITS]}.{suffix}"
        file = self.folder / name
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content)
        return f"{IMAGES}/{name}"

    def remove_others(self, kept: Iterable[str]) -> None:
        """Remove the images of the folder that no row names.

        Args:
            kept: paths relative to the rows.
        """
        names = {Path(path).name for path in kept}
        for file in self.folder.glob("*"):
            if NAME.fullmatch(file.name) and file.name not in names:
                file.unlink(missing_ok=True)


def check_pictures(folder: Path, names: Iterable[str]) -> None:
    """Check that images are there, and are those that they were: their names are hashes of their content.

    Args:
        folder: of the rows.
        names: paths relative to it.

    Raises:
        DataError: one is missing or has changed.

    >>> check_pictures(Path("selection"), ["images/0123456789abcdef0123456789abcdef.png"])
    Traceback (most recent call last):
    basereward.errors.DataError: the image 'selection/images/0123456789abcdef0123456789abcdef.png' is missing: ...
    """
    advice = "restore the folder from a copy, or select again into another folder"
    for name in sorted(set(names)):
        file = folder / name
        try:
            content = file_sha256(file)
        except FileNotFoundError as error:
            raise DataError(f"the image '{file}' is missing: {advice}") from error
        except OSError as error:
            raise DataError(f"the image '{file}' cannot be read ({error.strerror or error}): {advice}") from error
        if content[:NAME_DIGITS] != file.stem:
            raise DataError(f"the image '{file}' is not the one that was selected: {advice}")


def web_file(content: bytes | PIL.Image.Image) -> tuple[bytes, str]:
    """The bytes of an image in a format that browsers show, and its suffix. A file in such a format is not changed.

    Raises:
        ImageError: the image cannot be opened.

    >>> web_file(PIL.Image.new("RGB", (4, 2)))[1]
    'png'
    """
    if isinstance(content, bytes):
        try:
            with warnings.catch_warnings(action="ignore"):
                opened = PIL.Image.open(io.BytesIO(content), formats=[*WEB_FORMATS])
        except PIL.UnidentifiedImageError:
            # Another format, which is converted.
            return _png(content), "png"
        with opened:
            return content, WEB_FORMATS[str(opened.format)][0]
    return _png(content), "png"


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG")
    return buffer.getvalue()
