"""Reduced copies of images as data URIs, so that a page holds its images itself."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import PIL.Image

# Pixels of the longer side. Below the minimum an image cannot be recognized, above the maximum it fills a screen.
MAX_SIDE, MIN_SIDE = 768, 96
# Pixels of all images of a page together: about 20 MB as JPEG. Those that do not fit into the page are files beside it.
BUDGET = 120_000_000
# Pixels of the longer side up to which an image is stored as PNG. JPEG would blur it and save nothing.
LOSSLESS_SIDE = 128
JPEG_QUALITY = 82


class Album:
    """The reduced images of a page, each stored once.

    `pictures` is plain data: for each image its data URI, and width and height of the original in pixels.

    >>> album = Album()
    >>> [album.add(PIL.Image.new("RGB", (4, 2)), side=96) for _ in range(2)], album.pictures[0]["width"]
    ([0, 0], 4)
    """

    def __init__(self) -> None:
        self.pictures: list[dict[str, Any]] = []
        self._positions: dict[str, int] = {}

    def add(self, picture: PIL.Image.Image, *, side: int) -> int:
        """Add an image, unless an equal one is there.

        Args:
            picture: of mode RGB.
            side: the maximum width and height of the copy, in pixels.

        Returns:
            The position in `pictures`.
        """
        uri = data_uri(picture, side=side)
        if uri not in self._positions:
            self._positions[uri] = len(self.pictures)
            self.pictures.append({"uri": uri, "width": picture.width, "height": picture.height})
        return self._positions[uri]


def side_for(pictures: int) -> int:
    """Choose the maximum side of each image, in pixels, so that all images stay within `BUDGET`.

    Args:
        pictures: the number of images on the page.

    >>> side_for(1), side_for(1000), side_for(10**6)
    (768, 346, 96)
    """
    return max(MIN_SIDE, min(MAX_SIDE, math.isqrt(BUDGET // max(pictures, 1))))


def encoded(picture: PIL.Image.Image, *, side: int) -> tuple[bytes, str]:
    """Encode an image, reduced if it is larger than `side` pixels.

    Args:
        picture: of mode RGB.
        side: the maximum width and height, in pixels.

    Returns:
        The file, and `png` or `jpeg`.

    >>> encoded(PIL.Image.new("RGB", (400, 200)), side=200)[1]
    'jpeg'
    """
    reduced = picture.copy()
    reduced.thumbnail((side, side))
    lossless = max(reduced.size) <= LOSSLESS_SIDE
    buffer = io.BytesIO()
    if lossless:
        reduced.save(buffer, "PNG")
    else:
        reduced.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), "png" if lossless else "jpeg"


def data_uri(picture: PIL.Image.Image, *, side: int) -> str:
    """Encode an image as a data URI, as `encoded` does.

    >>> data_uri(PIL.Image.new("RGB", (400, 200)), side=200)[:23]
    'data:image/jpeg;base64,'
    """
    content, kind = encoded(picture, side=side)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
