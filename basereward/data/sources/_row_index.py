"""Where the rows of a table are, and the hash of its prompt by which a row is put into a part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from basereward.data.schema.group import ArchivedImage, Group, Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

MALFORMED = 2**64 - 1  # the key of a row without a prompt to hash: such rows are counted with the training part


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that makes no group. One without a prompt that could be read has the key `MALFORMED`."""

    key: int
    id: str
    reason: str
    detail: str


@dataclass
class RowIndex:
    """Where the usable rows of a table are; the arrays have one entry a row."""

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    keys: NDArray[np.uint64]
    lost: list[Unusable] = field(default_factory=list)

    def between(self, low: float, high: float) -> RowIndex:
        """The rows whose key, taken as a number from 0 to 1, is in [low, high)."""
        shares = self.keys.astype(np.float64) / 2**64
        chosen = (shares >= low) & ((shares < high) | (high >= 1))
        lost = [row for row in self.lost if low <= row.key / 2**64 and (row.key / 2**64 < high or high >= 1)]
        return RowIndex(self.places[chosen], self.numbers[chosen], self.keys[chosen], lost)


def prompt_key(group: Group, *, seed: int, root: str) -> int:
    """A hash of the prompt's turns and images, 64 bits.

    Args:
        root: the folder of the images, which does not count.
    """
    turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
    digest = hashlib.blake2b(repr(turns).encode(), digest_size=8, key=str(seed).encode())
    for image in group.images:
        digest.update(_identity(image, root=root))
    return int.from_bytes(digest.digest(), "big")


def _identity(image: Image, *, root: str) -> bytes:
    """What makes two images the same: their path below the root or in their archive, or their content."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        return hashlib.blake2b(image.tobytes()).digest()
    path = image.member if isinstance(image, ArchivedImage) else str(image)
    return hashlib.blake2b(path.removeprefix(root).lstrip("/").encode("utf-8", "surrogateescape")).digest()
