"""Recognizes equal images by their content, and resized or re-encoded copies by a perceptual hash."""

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
from basereward.data.schema.group import ArchivedImage, Image, Video, Visual, flat_images
from basereward.data.schema.rejections import RowRejected

_T = TypeVar("_T")

# Side in pixels of the reduced image, from which the frequencies are computed.
SIDE = 32
# The lowest frequencies of each axis: 8 x 8 of them give 64 bits.
LOW = 8
# Mean amplitude of these frequencies, in levels of grey, below which an image has too little content for a hash.
FLAT = 1.0


@dataclass(frozen=True, slots=True)
class ImageFingerprint:
    """The hashes of an image, of 64 bits each.

    Attributes:
        content: a hash of the file, or of the pixels of a decoded image.
        perceptual: the result of `perceptual_hash`; None if it has none.
        readable: False for a file that exists and is not an image.

    >>> ImageFingerprint(content=1, perceptual=None).readable
    True
    """

    content: int
    perceptual: int | None
    readable: bool = True


class ImageHashes:
    """Computes hashes of images, with a cache for files, because many prompts share an image.

    Args:
        remember: the number of files in the cache.

    >>> hashes = ImageHashes()
    >>> image = PIL.Image.linear_gradient("L")
    >>> hashes.content(image) == hashes.content(image.copy()), hashes.content("missing.png")
    (True, None)
    """

    def __init__(self, *, remember: int = 50_000) -> None:
        self._remember = remember
        self._contents: dict[str, int | None] = {}
        self._fingerprints: dict[str, ImageFingerprint | None] = {}

    def content(self, image: Image) -> int | None:
        """Hash the bytes of an image file, or the pixels of a decoded image; None if it cannot be read."""
        # Images in memory are not cached: they have no name, and a key would have to be computed from all their bytes.
        if isinstance(image, bytes | PIL.Image.Image):
            return _content(image)
        name = str(image)
        if name not in self._contents:
            self._add(self._contents, name, _content(image))
        return self._contents[name]

    def fingerprint(self, image: Image) -> ImageFingerprint | None:
        """Compute both hashes of an image; None if it cannot be read."""
        if isinstance(image, bytes | PIL.Image.Image):
            return _fingerprint(image, self.content(image))
        name = str(image)
        if name not in self._fingerprints:
            self._add(self._fingerprints, name, _fingerprint(image, self.content(image)))
        return self._fingerprints[name]

    def identity(self, image: Visual) -> int:
        """Hash the content of an image or of the frames of a video, or its name if the content cannot be read."""
        if isinstance(image, Video):
            return hash64("video", repr(image.fps), *(self.identity(frame) for frame in flat_images([image])))
        content = self.content(image)
        # Missing images with different names must not make two groups duplicates.
        return hash64("unread", str(image)) if content is None else content

    def _add(self, cache: dict[str, _T], name: str, value: _T) -> None:
        cache[name] = value
        if len(cache) > self._remember:
            # The oldest entry, since dicts keep their order.
            del cache[next(iter(cache))]


def _content(image: Image) -> int | None:
    if isinstance(image, PIL.Image.Image):
        # The mode and the size are included, because images of different shapes may have equal bytes.
        return hash64(image.mode, image.width, image.height, image.tobytes())
    if isinstance(image, bytes):
        return hash64(image) if image else None
    try:
        return hash64(read_archived(image) if isinstance(image, ArchivedImage) else Path(image).read_bytes())
    except (OSError, ValueError, RowRejected):
        # A name with a null character is a ValueError.
        return None


def _fingerprint(image: Image, content: int | None) -> ImageFingerprint | None:
    if content is None:
        return None
    try:
        return ImageFingerprint(content, perceptual_hash(open_image(image)))
    except RowRejected:
        return ImageFingerprint(content, None, readable=False)


def perceptual_hash(image: PIL.Image.Image) -> int | None:
    """Hash the appearance of an image, which resizing and re-encoding hardly change ("pHash").

    Each of the 64 bits is one of the lowest frequencies of the discrete cosine transform of the grey image: 1 if it is
    above their median. Source: C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010).

    Args:
        image: an image in any mode.

    Returns:
        The hash, 64 bits; None for an image of almost one colour, which has no content to recognize.

    >>> image = PIL.Image.effect_mandelbrot((200, 150), (-3, -2.5, 2, 2.5), 100)
    >>> hamming_distance(perceptual_hash(image), perceptual_hash(image.resize((100, 80)))) <= 4
    True
    >>> perceptual_hash(PIL.Image.new("RGB", (64, 48), "navy")) is None
    True
    """
    grey = image.convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:LOW, :LOW].ravel()
    # The first frequency is the mean brightness, which says nothing about the content. Without content, the bits would
    # be rounding errors, and all empty images would be copies of each other.
    if np.abs(low[1:]).mean() < FLAT:
        return None
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hamming_distance(a: int, b: int) -> int:
    """Count the bits in which two hashes differ.

    >>> hamming_distance(0b1100, 0b1010)
    2
    """
    return (a ^ b).bit_count()
