"""Fingerprints of the items of a benchmark, which show whether two evaluations used the same items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.images.image_store import ImageStore, read_archived
from basereward.data.schema.group import ArchivedImage, PlacedImage, Video, flat_images
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.items import Item
from basereward.io.hashing import file_sha256

PARTS = ("items", "pictures")


def item_fingerprint(item: Item) -> str:
    """Hash the id, prompt, responses, right responses and labels of an item.

    Images are left out, because outcomes are often counted on a machine without them.

    Returns:
        16 hexadecimal digits.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> len(item_fingerprint(item))
    16
    """
    content: tuple[Any, ...] = (
        *(item.id, item.prompt, item.responses, item.right, item.wrong, sorted(item.labels.items())),
        # Only if there are any, so that items without videos or images in responses keep their fingerprints.
        *((item.videos,) if item.videos else ()),
        *((tuple(map(len, item.response_images)),) if item.response_images else ()),
    )
    # `surrogatepass`: texts of public data sets hold unpaired surrogates, which UTF-8 cannot encode.
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def items_fingerprint(items: Iterable[Item]) -> str:
    """Hash all items, in their order, to 64 hexadecimal digits.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> items_fingerprint([item]) == items_fingerprint([item, item])
    False
    """
    return hashlib.sha256("".join(map(item_fingerprint, items)).encode()).hexdigest()


def pictures_fingerprint(items: Iterable[Item], store: ImageStore) -> str | None:
    """Hash the content of all images, in their order.

    Args:
        items: whose images are hashed.
        store: where the images are.

    Returns:
        64 hexadecimal digits; None if an image is not available.

    >>> item = Item(0, "a", "What is this?", ("4", "5"), (0,), (1,), "a", images=("not_there.png",))
    >>> pictures_fingerprint([item], ImageStore(Path("/"))) is None
    True
    """
    combined = hashlib.sha256()
    for item in items:
        for image in (*item.images, *chain.from_iterable(item.response_images)):
            if image is None:
                continue
            digest = _picture_sha256(image.image if isinstance(image, PlacedImage) else image, store)
            if digest is None:
                return None
            combined.update(f"{item.row} {digest}\n".encode())
    return combined.hexdigest()


def names_of_images(item: Item) -> tuple[Any, ...]:
    """What stands for the images of an item that are not available: their references.

    >>> names_of_images(Item(0, "a", "What is this?", ("4", "5"), (0,), (1,), "a", images=("a.png",)))
    ('a.png',)
    """
    # Without images in responses the tuple is that of earlier versions.
    return (*item.images, item.response_images) if item.response_images else item.images


def changed(one: Mapping[str, str | None] | None, other: Mapping[str, str | None] | None) -> list[str]:
    """The parts, `items` or `pictures`, in which two recorded fingerprints differ.

    A part that one of the two did not record is not compared.

    >>> changed({"items": "a", "pictures": None}, {"items": "b", "pictures": "c"}), changed(None, {"items": "b"})
    (['items'], [])
    """
    if one is None or other is None:
        return []
    recorded = [name for name in PARTS if one.get(name) is not None and other.get(name) is not None]
    return [name for name in recorded if one[name] != other[name]]


def _picture_sha256(image: Any, store: ImageStore) -> str | None:
    """The hash of an image in any of the forms that a row may hold; None if it is not available."""
    if isinstance(image, Video):
        digests = [_picture_sha256(frame, store) for frame in flat_images([image])]
        return None if None in digests else hashlib.sha256(repr((image.fps, digests)).encode()).hexdigest()
    return _image_sha256(image, store)


def _image_sha256(image: Any, store: ImageStore) -> str | None:
    # The form of the `datasets` library: {"bytes": ..., "path": ...}, one of which is None.
    if isinstance(image, Mapping):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, PIL.Image.Image):
        return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, str) and image.startswith("data:"):
        return hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        return _stored_sha256(image, store)
    except (RowRejected, DataError, OSError, ValueError, TypeError):
        # A missing image is an error only when it is scored, and scoring reports it.
        return None


def _stored_sha256(image: Any, store: ImageStore) -> str | None:
    location = image if isinstance(image, ArchivedImage) else store.find(image)
    if isinstance(location, ArchivedImage):
        return hashlib.sha256(read_archived(location)).hexdigest()
    return file_sha256(location) if Path(location).is_file() else None
