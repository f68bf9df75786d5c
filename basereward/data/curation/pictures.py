"""When two pictures are the same: by content, or by a perceptual hash that resizing and re-encoding hardly change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
from scipy.fft import dctn

from basereward.data.curation.words import hash64
from basereward.data.images.image_store import read_archived
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import ArchivedImage, Image
from basereward.data.schema.rejections import RowRejected

_T = TypeVar("_T")

SIDE = 32  # pixels that the frequencies are taken from
LOW = 8  # lowest frequencies a side that are kept: 8 x 8 bits
FLAT = 1.0  # mean strength of these frequencies, in shades of grey, below which there is nothing to recognise


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a picture: a hash of its content, and its perceptual hash unless it is of one colour.

    Both have 64 bits. `readable` is False for a file that is there and no picture.
    """

    content: int
    perceptual: int | None
    readable: bool = True


class PictureHashes:
    """Hashes of pictures; those of the last `remember` files looked at are kept, since prompts share pictures."""

    def __init__(self, *, remember: int = 50_000) -> None:
        self._remember = remember
        self._contents: dict[str, int | None] = {}
        self._looks: dict[str, Look | None] = {}

    def content(self, image: Image) -> int | None:
        """A hash of the bytes of an image file, or of the pixels of a decoded picture; None when it cannot be read."""
        if isinstance(image, bytes | PIL.Image.Image):
            return _content(image)
        name = str(image)
        if name not in self._contents:
            self._keep(self._contents, name, _content(image))
        return self._contents[name]

    def look(self, image: Image) -> Look | None:
        """Both hashes; None when there is nothing to read."""
        if isinstance(image, bytes | PIL.Image.Image):
            return _look(image, self.content(image))
        name = str(image)
        if name not in self._looks:
            self._keep(self._looks, name, _look(image, self.content(image)))
        return self._looks[name]

    def identity(self, image: Image) -> int:
        """The hash of the content, or of the name where that cannot be read."""
        content = self.content(image)
        return hash64("unread", str(image)) if content is None else content

    def _keep(self, memory: dict[str, _T], name: str, value: _T) -> None:
        memory[name] = value
        if len(memory) > self._remember:
            del memory[next(iter(memory))]  # the first that came


def _content(image: Image) -> int | None:
    if isinstance(image, PIL.Image.Image):
        return hash64(image.mode, image.width, image.height, image.tobytes())
    if isinstance(image, bytes):
        return hash64(image) if image else None
    try:
        return hash64(read_archived(image) if isinstance(image, ArchivedImage) else Path(image).read_bytes())
    except (OSError, ValueError, RowRejected):  # a name with a null character is a ValueError
        return None


def _look(image: Image, content: int | None) -> Look | None:
    if content is None:
        return None
    try:
        return Look(content, perceptual_hash(open_image(image)))
    except RowRejected:
        return Look(content, None, readable=False)


def perceptual_hash(picture: PIL.Image.Image) -> int | None:
    """64 bits, one for each of the lowest frequencies of the grey picture: whether it is above their median.

    None for a picture of one colour, which has none.
    """
    grey = picture.convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:LOW, :LOW].ravel()
    if np.abs(low[1:]).mean() < FLAT:
        return None
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def bits_apart(a: int, b: int) -> int:
    """In how many of their bits two hashes differ.

    >>> bits_apart(0b1100, 0b1010)
    2
    """
    return (a ^ b).bit_count()
