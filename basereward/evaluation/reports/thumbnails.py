"""Small copies of pictures as data URIs, so that a page holds them itself."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import PIL.Image

MAX_SIDE, MIN_SIDE = 768, 96  # pixels of the longer side
BUDGET = 120_000_000  # pixels of all pictures of a page together; as JPEG about 20 MB
LOSSLESS_SIDE = 128  # up to here a picture is kept as it is: JPEG would blur it, and save nothing
QUALITY = 82


class Album:
    """Small copies, each kept once; `pictures` is plain data: the data URI, and width and height of the original."""

    def __init__(self) -> None:
        self.pictures: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}

    def add(self, picture: PIL.Image.Image, *, side: int) -> int:
        """The place in `pictures` of a copy that is at most `side` pixels wide and high."""
        uri = data_uri(picture, side=side)
        if uri not in self._places:
            self._places[uri] = len(self.pictures)
            self.pictures.append({"uri": uri, "width": picture.width, "height": picture.height})
        return self._places[uri]


def side_for(pictures: int) -> int:
    """How large each of so many pictures may be that all keep to the budget, in pixels.

    >>> side_for(1), side_for(1000), side_for(10**6)
    (768, 346, 96)
    """
    return max(MIN_SIDE, min(MAX_SIDE, math.isqrt(BUDGET // max(pictures, 1))))


def data_uri(picture: PIL.Image.Image, *, side: int) -> str:
    """A picture of mode RGB, made smaller where it is larger than `side`, as a data URI.

    >>> data_uri(PIL.Image.new("RGB", (400, 200)), side=200)[:23]
    'data:image/jpeg;base64,'
    """
    small = picture.copy()
    small.thumbnail((side, side))
    lossless = max(small.size) <= LOSSLESS_SIDE
    buffer = io.BytesIO()
    if lossless:
        small.save(buffer, "PNG")
    else:
        small.save(buffer, "JPEG", quality=QUALITY)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
