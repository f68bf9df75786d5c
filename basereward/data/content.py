"""What groups hold, as bytes to hash: equal for equal content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import PIL.Image

from basereward.data.group import Group, Image
from basereward.data.image_store import ArchivedImage


def encoded_content(group: Group) -> bytes:
    """A hash of all in a group that a scalar head's model reads: prompt, pictures and responses, in their order."""
    turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
    digest = hashlib.blake2b(repr((turns, group.responses)).encode("utf-8", "surrogatepass"), digest_size=32)
    for image in group.images:
        digest.update(hashlib.blake2b(image_content(image)).digest())
    return digest.digest()


def image_content(image: Image) -> bytes:
    """The picture itself where it is at hand; of a file its path, size and time, which reading it would not tell more
    cheaply."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        return hashlib.blake2b(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
    path = image.archive if isinstance(image, ArchivedImage) else str(image)
    try:
        found = Path(path).stat()
    except OSError as error:
        return f"{image} {error.errno}".encode("utf-8", "surrogateescape")
    return f"{image} {found.st_size} {found.st_mtime_ns}".encode("utf-8", "surrogateescape")
