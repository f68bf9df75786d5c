"""What a row gives for a picture -> bytes, a decoded picture, or where its file lies. Nothing is opened or fetched.

A picture is a path, bytes, `{"bytes", "path", "url"}`, a `file://` address, a data URI in base64, or base64 alone.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import PIL.Image

from basereward.data.images.image_store import MAX_BYTES, ImageError, ImageStore
from basereward.data.schema.group import Image
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

MAX_INLINE_BYTES = 32 * 2**20
"""Bytes of one picture that stands in the text of a row. A larger one would take seconds at every reading of the row;
it belongs into a file of its own."""

KEYS = ("bytes", "path", "url", "file_name")
DATA_URI = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# The first letters of a PNG, JPEG, GIF, WebP file in base64, and the alphabet that all the letters are of.
BASE64_STARTS = ("iVBORw0K", "/9j/", "R0lGOD", "UklGR")
BASE64 = re.compile(r"[A-Za-z0-9+/\s]++={0,2}\s*+")
SHORTEST_BASE64 = 48  # letters; `/9j/` may begin a path too, and no picture is as small


def image_list(value: Any) -> list[Any] | None:
    """The pictures of a cell: a list as it is, or as JSON in a text, as CSV holds it; else the one picture.

    >>> image_list('["a.png", "b.png"]'), image_list("a.png"), image_list(None)
    (['a.png', 'b.png'], ['a.png'], None)
    """
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return [value]  # `[1].png` is a name
        return parsed if isinstance(parsed, list) else [value]
    return [value]


def find_image(image: object, *, place: int, images: ImageStore) -> Image:
    """The picture that a row refers to; it is not opened.

    Args:
        image: what the row gives.
        place: of the picture among those of the row, for messages.
        images: where the files lie that paths name.

    Raises:
        RowRejected: `bad_image_reference`, `bad_base64`, `image_is_address`, `image_too_large` or `image_outside_root`.
    """
    if isinstance(image, Mapping):
        return _of_mapping(image, place=place, images=images)
    if image is None:
        return b""  # a null among the images: no bytes, which opening it will say
    if isinstance(image, PIL.Image.Image):
        return image
    if isinstance(image, bytes):
        return _checked(image, place=place, limit=MAX_BYTES)
    if not isinstance(image, str | Path) or not str(image):
        raise _bad(place, f"is {shown(image)}; a path, bytes or a data URI is needed")
    return _of_text(str(image), place=place, images=images)


def _of_mapping(image: Mapping[Any, Any], *, place: int, images: ImageStore) -> Image:
    given = [key for key in KEYS if image.get(key) is not None]
    if not given and any(value is not None for value in image.values()):
        raise _bad(place, f"is {shown(dict(image))}; an object with `bytes`, `path` or `url` is needed")
    content = image.get(given[0]) if given else None
    if given and given[0] == "bytes" and isinstance(content, str) and not DATA_URI.match(content):
        return _from_base64(content, place=place)
    if isinstance(content, Mapping):
        raise _bad(place, f"is {shown(dict(image))}; `{given[0]}` is a text")
    return find_image(content, place=place, images=images)


def _of_text(text: str, *, place: int, images: ImageStore) -> Image:
    if match := DATA_URI.match(text):
        return _from_base64(text[match.end() :], place=place)
    if text[:5].lower() == "data:":
        raise _bad(place, f"is {shown(text)}, a data URI without base64; write data:image/png;base64,...")
    if text.startswith(BASE64_STARTS) and len(text) >= SHORTEST_BASE64 and _is_base64(text):
        return _from_base64(text, place=place)
    if match := SCHEME.match(text):
        return images.find(_file_of_address(text, scheme=match[1].lower(), place=place))
    return images.find(text)


def _is_base64(text: str) -> bool:
    """Whether a text that begins like a picture in base64 is no name of a file: it is base64, or has no file ending."""
    return BASE64.fullmatch(text) is not None or "." not in text


def _file_of_address(address: str, *, scheme: str, place: int) -> str:
    """The path of a `file://` address."""
    if scheme != "file":
        kind = "the address" if scheme in ("http", "https") else f"an address of {scheme}://,"
        detail = f"images[{place}] is {kind} {address[:300]}; nothing is fetched: download it and give its path"
        raise RowRejected("image_is_address", detail)
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise _bad(place, f"is {shown(address)}; an address of a file here is file:///folder/name.png")
    return unquote(parts.path)


def _from_base64(text: str, *, place: int) -> bytes:
    if len(text) > MAX_INLINE_BYTES * 4 // 3 + 4:  # before it is decoded
        raise _too_large(place, f"about {len(text) * 3 // 4:,}", MAX_INLINE_BYTES)
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # lines of 76 letters are a way to write it
    except ValueError as error:  # binascii's own, and a plain one for letters outside ASCII
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
