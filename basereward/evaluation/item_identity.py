"""Which items a benchmark has: fingerprints of what is asked, answered and shown, to tell two files apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.images.image_store import ImageStore, read_archived
from basereward.data.schema.group import ArchivedImage
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.items import Item
from basereward.io.hashing import file_sha256


def item_fingerprint(item: Item) -> str:
    """16 hexadecimal digits over an item's id, prompt, answers, which of them are right, and labels. Pictures are left
    out, since outcomes are often counted where the pictures are not at hand."""
    content = (item.id, item.prompt, item.responses, item.right, item.wrong, sorted(item.labels.items()))
    return hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def items_fingerprint(items: Iterable[Item]) -> str:
    """64 hexadecimal digits over all items, in their order."""
    return hashlib.sha256("".join(map(item_fingerprint, items)).encode()).hexdigest()


def pictures_fingerprint(items: Iterable[Item], store: ImageStore) -> str | None:
    """64 hexadecimal digits over the content of all pictures, in their order; None where one is not at hand."""
    whole = hashlib.sha256()
    for item in items:
        for image in item.images:
            if image is None:
                continue
            digest = _picture_sha256(image, store)
            if digest is None:
                return None
            whole.update(f"{item.row} {digest}\n".encode())
    return whole.hexdigest()


def changed(one: Mapping[str, str | None] | None, other: Mapping[str, str | None] | None) -> list[str]:
    """What two recorded fingerprints differ in, of what both of them hold: `items`, `pictures`.

    >>> changed({"items": "a", "pictures": None}, {"items": "b", "pictures": "c"}), changed(None, {"items": "b"})
    (['items'], [])
    """
    if one is None or other is None:
        return []
    both = [name for name in ("items", "pictures") if one.get(name) is not None and other.get(name) is not None]
    return [name for name in both if one[name] != other[name]]


def _picture_sha256(image: Any, store: ImageStore) -> str | None:
    if isinstance(image, Mapping):
        image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
    if isinstance(image, PIL.Image.Image):
        return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    if isinstance(image, str) and image.startswith("data:"):
        return hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest()
    try:
        found = image if isinstance(image, ArchivedImage) else store.find(image)
        if isinstance(found, ArchivedImage):
            return hashlib.sha256(read_archived(found)).hexdigest()
        return file_sha256(found) if Path(found).is_file() else None
    except (RowRejected, DataError, OSError, ValueError, TypeError):
        return None  # whoever needs it says why it cannot be had
