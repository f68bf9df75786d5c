"""Converts the image references of a row to paths, bytes or PIL images. Nothing is opened or downloaded.

A reference is a path, bytes, an object with `bytes`, `path` or `url`, a `file://` URL, a data URI in base64, base64
alone, a PIL image, an array of NumPy or a tensor of torch.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

import PIL.Image

from basereward.data.images.array_images import image_of_array, is_array
from basereward.data.images.image_store import MAX_BYTES, ImageError, ImageStore
from basereward.data.python_text import parse_python
from basereward.data.schema.group import Image
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

ImageReference: TypeAlias = "Image | NDArray[np.uint8] | Tensor | Mapping[str, Any]"
"""An image as a caller may give it: also a NumPy array `(H, W, 3)` uint8, a tensor `(3, H, W)` that is uint8 or from 0
to 1, and an object with `bytes`, `path` or `url`."""

MAX_INLINE_BYTES = 32 * 2**20
"""The largest image inside the text of a row, in bytes. Decoding a larger one takes seconds at every access."""

KEYS = ("bytes", "path", "url", "file_name")
DATA_URI = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# The first characters of PNG, JPEG, GIF and WebP files in base64.
BASE64_STARTS = ("iVBORw0K", "/9j/", "R0lGOD", "UklGR")
# Possessive quantifiers (`++`), because backtracking through a text of megabytes takes long.
BASE64 = re.compile(r"[A-Za-z0-9+/\s]++={0,2}\s*+")
# Characters. A shorter text that begins with `/9j/` must be a path, because no image is that small.
SHORTEST_BASE64 = 48
# More of the first characters of such files, which no path has: a shorter text is an image that was cut off.
LONGER_STARTS = ("iVBORw0KGgo", "/9j/4AAQSkZJRg", "/9j/4QA", "R0lGODlh", "R0lGODdh")


def reference_list(value: Any) -> list[Any] | None:
    """Convert the cell of a column of images or videos to a list of references.

    A text may be a list in JSON or Python's notation, as in CSV files.

    >>> reference_list('["a.png", "b.png"]'), reference_list("a.png"), reference_list(None)
    (['a.png', 'b.png'], ['a.png'], None)
    """
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            # Python's notation, or a file name such as `[1].png`.
            parsed = parse_python(value.strip())
        return parsed if isinstance(parsed, list) else [value]
    return [value]


def find_image(image: object, *, place: int, images: ImageStore) -> Image:
    """Resolve the image reference of a row without opening the image.

    Args:
        image: the reference.
        place: the index of the image in the row, for messages.
        images: resolves paths.

    Raises:
        RowRejected: `bad_image_reference`, `bad_base64`, `image_is_address`, `image_too_large` or `image_outside_root`.

    >>> str(find_image({"path": "cat.png"}, place=0, images=ImageStore("data")))
    'data/cat.png'
    >>> find_image("data:image/gif;base64,R0lGODlhAQAB", place=0, images=ImageStore())
    b'GIF89a\\x01\\x00\\x01'
    """
    if isinstance(image, Mapping):
        return _of_mapping(image, place=place, images=images)
    if image is None:
        # Null in a list of images, or an object of nulls. Opening these bytes reports that the image is null.
        return b""
    if isinstance(image, PIL.Image.Image):
        return image
    if is_array(image):
        return image_of_array(image, name=f"images[{place}]")
    if isinstance(image, bytes):
        return _checked(image, place=place, limit=MAX_BYTES)
    if not isinstance(image, str | Path) or not str(image):
        raise _bad(place, f"is {shown(image)}; a path, bytes or a data URI is needed")
    return _of_text(str(image), place=place, images=images)


def _of_mapping(image: Mapping[Any, Any], *, place: int, images: ImageStore) -> Image:
    """Resolve an object with an image: the first of its keys `bytes`, `path`, `url`, `file_name` that is not null."""
    key = next((key for key in KEYS if image.get(key) is not None), None)
    if key is None:
        if any(value is not None for value in image.values()):
            raise _bad(place, f"is {shown(dict(image))}; an object with `bytes`, `path` or `url` is needed")
        # The `datasets` library stores a missing image as an object of nulls.
        return find_image(None, place=place, images=images)
    content = image[key]
    if key == "bytes" and isinstance(content, str) and not DATA_URI.match(content):
        return _from_base64(content, place=place)
    if isinstance(content, Mapping):
        raise _bad(place, f"is {shown(dict(image))}; `{key}` must be a text")
    return find_image(content, place=place, images=images)


def _of_text(text: str, *, place: int, images: ImageStore) -> Image:
    """Resolve a text: a data URI, base64, a URL, or otherwise a path."""
    if match := DATA_URI.match(text):
        return _from_base64(text[match.end() :], place=place)
    if text[:5].lower() == "data:":
        raise _bad(place, f"is {shown(text)}, a data URI without base64; write data:image/png;base64,...")
    if text.startswith(BASE64_STARTS if len(text) >= SHORTEST_BASE64 else LONGER_STARTS) and _is_base64(text):
        return _from_base64(text, place=place)
    if match := SCHEME.match(text):
        return images.find(_file_of_address(text, scheme=match[1].lower(), place=place))
    return images.find(text)


def _is_base64(text: str) -> bool:
    """Whether a text that begins like an image in base64 is not a file name: it is valid base64, or has no suffix."""
    return BASE64.fullmatch(text) is not None or "." not in text


def _file_of_address(address: str, *, scheme: str, place: int) -> str:
    """Return the path of a `file://` URL."""
    if scheme != "file":
        kind = "the URL" if scheme in ("http", "https") else f"a URL with {scheme}://,"
        detail = f"images[{place}] is {kind} {address[:300]}; images are not downloaded: download it and give its path"
        raise RowRejected("image_is_address", detail)
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise _bad(place, f"is {shown(address)}; the URL of a local file is file:///folder/name.png")
    return unquote(parts.path)


def _from_base64(text: str, *, place: int) -> bytes:
    """Decode base64, which may have line breaks."""
    # Base64 has 4 characters per 3 bytes.
    if len(text) > MAX_INLINE_BYTES * 4 // 3 + 4:
        raise _too_large(place, f"about {len(text) * 3 // 4:,}", MAX_INLINE_BYTES)
    try:
        # MIME breaks base64 into lines of 76 characters, which `validate` would reject.
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        # binascii.Error, or a plain ValueError for characters outside ASCII.
        raise RowRejected("bad_base64", f"images[{place}]: its base64 is broken: {error}") from None


def _checked(content: bytes, *, place: int, limit: int) -> bytes:
    if len(content) > limit:
        raise _too_large(place, f"{len(content):,}", limit)
    return content


def _too_large(place: int, size: str, limit: int) -> ImageError:
    detail = f"images[{place}] has {size} bytes; at most {limit:,} are read. Give a smaller copy, or its path"
    return ImageError("image_too_large", detail)


def _bad(place: int, detail: str) -> RowRejected:
    return RowRejected("bad_image_reference", f"images[{place}] {detail}")
