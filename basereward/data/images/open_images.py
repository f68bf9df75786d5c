"""Opens images of any format as 8-bit RGB, the input of image processors."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from basereward.data.images.image_store import MAX_BYTES, read_archived
from basereward.data.images.image_store import ImageError as ImageError
from basereward.data.schema.group import ArchivedImage, Image, Video, Visual

# Width x height. A larger image takes gigabytes when it is decoded.
MAX_PIXELS = 100_000_000
# Raster formats only: Pillow passes EPS to an external interpreter, which untrusted files must not reach.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# PIL reads the pixels of an open file when they are first needed. Two threads that share such an image would move the
# position in its file for each other.
_decoding = threading.Lock()


def open_image(image: Visual, *, name: str | None = None) -> PIL.Image.Image:
    """Open an image in mode RGB.

    The orientation of the camera (EXIF) is applied, transparency becomes white, 16-bit grey is scaled to 8 bits, and
    the first frame of an animation is used. `image` itself is not changed.

    Args:
        image: the image.
        name: the name in messages; None: the result of `describe`.

    Raises:
        ImageError: `image_missing`; `image_unreadable` (not an image, damaged or empty); `image_too_large` (more than
            `MAX_PIXELS` according to the header, before anything is decoded); `video_not_read` (it is a video).

    >>> open_image(PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    name = name or describe(image)
    image = _not_video(image)
    if isinstance(image, PIL.Image.Image):
        return _decode(image, name=name, ours=False)
    if isinstance(image, ArchivedImage):
        image = read_archived(image)
    if isinstance(image, bytes):
        _check_not_null(image)
        return _open(io.BytesIO(image), name=name)
    with _file(image, name=name) as file:
        return _open(file, name=name)


def read_image(image: Visual) -> bytes | PIL.Image.Image:
    """Read the bytes of an image file, or open an image that has no file.

    Raises:
        ImageError: as `open_image`, except for faults inside of a file.

    >>> read_image(b"content of a file")
    b'content of a file'
    """
    image = _not_video(image)
    if isinstance(image, PIL.Image.Image):
        return open_image(image)
    if isinstance(image, ArchivedImage):
        return read_archived(image)
    if isinstance(image, bytes):
        _check_not_null(image)
        return image
    with _file(image, name=describe(image)) as file:
        return file.read()


def _not_video(image: Visual) -> Image:
    """Return an image, and refuse a video.

    Raises:
        ImageError: `video_not_read`.
    """
    if isinstance(image, Video):
        raise ImageError(
            "video_not_read",
            f"{image.name} is a video, and only images are read here. Give its frames as images (`images`), or leave "
            "rows with videos out",
        )
    return image


def _check_not_null(content: bytes) -> None:
    """Check that there are bytes; a null reference of a row has none (see `find_image`).

    Raises:
        ImageError: `image_unreadable`.
    """
    if not content:
        raise ImageError(
            "image_unreadable",
            "an image is null or has 0 bytes; give its path or its bytes, or remove it and its place in the prompt",
        )


@contextlib.contextmanager
def _file(path: str | Path, *, name: str) -> Iterator[BinaryIO]:
    try:
        # A folder, or a pipe, which might never end.
        if Path(path).exists() and not Path(path).is_file():
            raise ImageError("image_unreadable", f"{name} is no regular file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise ImageError("image_too_large", f"{name}: at most {MAX_BYTES:,} bytes are read")
        with Path(path).open("rb") as file:
            yield file
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("image_missing", f"there is no file {name}") from None
    except OSError as error:
        raise ImageError("image_unreadable", f"{name}: {error.strerror or error}") from error
    except ValueError as error:
        # A name with a zero byte.
        raise ImageError("image_unreadable", f"{name!r}: {error}") from error


MAX_SHOWN = 1000
"""Characters of an image's name in messages."""


def describe(image: Visual) -> str:
    """Return the name of an image or a video for messages: its path, or what it is.

    >>> describe(b"123")
    'image of 3 bytes'
    """
    if isinstance(image, Video):
        return image.name
    if isinstance(image, bytes):
        return f"image of {len(image)} bytes"
    if isinstance(image, PIL.Image.Image):
        return f"decoded image of {image.width} x {image.height}"
    # A column of paths may contain anything, for example megabytes of broken base64.
    name = str(image)
    return name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..."


def _open(file: BinaryIO, *, name: str) -> PIL.Image.Image:
    if not file.read(1):
        raise ImageError("image_unreadable", f"{name} is empty (0 bytes)")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Pillow warns at a smaller size than ours; the size is checked below.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            opened = PIL.Image.open(file, formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise ImageError("image_too_large", f"{name}: {error}; at most {MAX_PIXELS:,} pixels are opened") from error
    except PIL.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError("image_unreadable", f"{name} is not an image of a known format ({known})") from error
    except MemoryError:
        # The machine is at fault and not the file, so the row must not be rejected.
        raise
    except Exception as error:
        # For a damaged header, Pillow's parsers raise many types.
        raise ImageError("image_unreadable", f"{name}: {error}") from error
    with opened:
        return _decode(opened, name=name, ours=True)


def _decode(image: PIL.Image.Image, *, name: str, ours: bool) -> PIL.Image.Image:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} = {image.width * image.height:,} pixels"
        raise ImageError("image_too_large", f"{name}: {size}; at most {MAX_PIXELS:,} are opened")
    if image.width * image.height == 0:
        raise ImageError("image_unreadable", f"{name} has no pixels: {image.width} x {image.height}")
    try:
        # `exif_transpose` changes the image in place, which the caller's own image must not show.
        if not ours:
            with _decoding:
                image = image.copy()
        PIL.ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except (MemoryError, ImageError):
        raise
    except Exception as error:
        # For damaged data, Pillow's decoders raise many types.
        raise ImageError("image_unreadable", f"{name}: {error}") from error


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode == "F":
        raise ImageError("image_unreadable", "floating-point samples have no known range; store 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would clip at 255; mode I is how it opens 16-bit PGM.
        levels = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        # 65535 = 255 * 257, so that white stays white; 128 rounds to the nearest level.
        return PIL.Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    # Modes with premultiplied alpha, which Pillow converts only to the same mode without premultiplication.
    if image.mode in ("RGBa", "La"):
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    layer = image.convert("RGBA")
    white = PIL.Image.new("RGBA", layer.size, "white")
    return PIL.Image.alpha_composite(white, layer).convert("RGB")
