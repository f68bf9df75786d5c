"""An index of the rows of a table: their places, and the hash of the prompt that assigns a row to a split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from basereward.data.schema.group import ArchivedImage, Group, Image, role_texts, visual_content

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The key of a row whose prompt cannot be read. As the largest key it belongs to train.
MALFORMED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that gives no group. If its prompt cannot be read, the key is `MALFORMED`.

    >>> Unusable(MALFORMED, "rows.jsonl:3", "malformed_json", "rows.jsonl:3: not JSON").reason
    'malformed_json'
    """

    key: int
    id: str
    reason: str
    detail: str


@dataclass
class RowIndex:
    """The usable rows of a table, and the rejected ones. All arrays have the shape `(N,)`.

    Attributes:
        places: the arguments of `Table.read`.
        numbers: the arguments of `Table.where`.
        keys: hashes of the prompts; see `prompt_key`.
        rejected: the rows that give no group.

    >>> keys = np.array([2**61, 2**63], np.uint64)
    >>> index = RowIndex(np.array([0, 50]), np.array([1, 2]), keys)
    >>> index.between(0.0, 0.25).numbers
    array([1])
    """

    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    keys: NDArray[np.uint64]
    rejected: list[Unusable] = field(default_factory=list)

    def between(self, low: float, high: float) -> RowIndex:
        """Select the rows with `low <= key / 2**64 < high`."""
        # Keys close to 2**64 round to 1.0, so the upper bound 1 includes it.
        fractions = self.keys.astype(np.float64) / 2**64
        chosen = (fractions >= low) & ((fractions < high) | (high >= 1))
        rejected = []
        for row in self.rejected:
            fraction = row.key / 2**64
            if low <= fraction and (fraction < high or high >= 1):
                rejected.append(row)
        return RowIndex(self.places[chosen], self.numbers[chosen], self.keys[chosen], rejected)


def prompt_key(group: Group, *, seed: int, root: str) -> int:
    """Hash the turns and images of a prompt to 64 bits.

    Args:
        group: the group.
        seed: the key of the hash; another seed gives another split of the data.
        root: the folder of the images. It is left out of the hash, so that a moved data set has the same splits.

    >>> from basereward.data.schema.group import IMAGE, Part, Turn
    >>> group = Group("0", "s", (Turn("user", (IMAGE, Part("What is it?"))),), ("a cat",), images=("/data/1.png",))
    >>> moved = Group("0", "s", group.prompt, ("a cat",), images=("/mnt/1.png",))
    >>> prompt_key(group, seed=0, root="/data") == prompt_key(moved, seed=0, root="/mnt")
    True
    """
    turns = role_texts(group.prompt)
    digest = hashlib.blake2b(repr(turns).encode(), digest_size=8, key=str(seed).encode())
    for image in group.images:
        digest.update(visual_content(image, lambda picture: _identity(picture, root=root)))
    return int.from_bytes(digest.digest(), "big")


def _identity(image: Image, *, root: str) -> bytes:
    """Hash the path of an image below the root or in its archive, or its content if it has no path."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        return hashlib.blake2b(image.tobytes()).digest()
    path = image.member if isinstance(image, ArchivedImage) else str(image)
    return hashlib.blake2b(path.removeprefix(root).lstrip("/").encode("utf-8", "surrogateescape")).digest()
