"""Fingerprints of the items of a benchmark, which show whether two evaluations used the same items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.images.image_store import ImageStore, archived_digest
from basereward.data.schema.group import ArchivedImage, Image, PlacedImage, Video, Visual, flat_images, visual_content
from basereward.data.schema.rejections import RowRejected
from basereward.data.videos.references import find_video
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
    """Hash the content of all images and videos, in their order.

    Args:
        items: whose images are hashed.
        store: where the images are.

    Returns:
        64 hexadecimal digits; None if an image or a video is not available.

    >>> item = Item(0, "a", "What is this?", ("4", "5"), (0,), (1,), "a", images=("not_there.png",))
    >>> pictures_fingerprint([item], ImageStore(Path("/"))) is None
    True
    """
    combined = hashlib.sha256()
    for item in items:
        for digest in _picture_hashes(item, store):
            if digest is None:
                return None
            combined.update(f"{item.row} {digest}\n".encode())
    return combined.hexdigest()


def partial_pictures(items: Iterable[Item], store: ImageStore) -> tuple[Any, ...]:
    """What stands for the images of items where some are not available: all references, and the hashes of those that
    are, since another file may have the same name.

    >>> item = Item(0, "a", "What is this?", ("4", "5"), (0,), (1,), "a", images=("not_there.png",))
    >>> partial_pictures([item], ImageStore(Path("/")))
    ([('not_there.png',)],)
    """
    items = list(items)
    hashes = [tuple(_picture_hashes(item, store)) for item in items]
    is_any = any(set(of_item) - {None} for of_item in hashes)
    names = [names_of_images(item) for item in items]
    # Without any image the tuple is that of earlier versions.
    return (names, hashes) if is_any else (names,)


def _picture_hashes(item: Item, store: ImageStore) -> Iterator[str | None]:
    """The hashes of the images and videos of an item; None for one that is not available."""
    for image in (*item.images, *chain.from_iterable(item.response_images)):
        if image is not None:
            yield _picture_sha256(image.image if isinstance(image, PlacedImage) else image, store)
    for place, name in enumerate(item.videos):
        try:
            video = absolute_visual(find_video(name, place=place, images=store))
        except DataError:
            # As for images: scoring reports it.
            yield None
        else:
            yield _picture_sha256(video, store)


def absolute_visual(visual: Visual) -> Visual:
    """An image or a video, with the absolute paths of its files.

    >>> absolute_visual(Video(("1.png", Path("/clips/2.png")))).frames
    ('1.png', PosixPath('/clips/2.png'))
    """
    if not isinstance(visual, Video):
        return absolute_image(visual)
    file = visual.file.absolute() if isinstance(visual.file, Path) else visual.file
    return replace(visual, frames=tuple(map(absolute_image, visual.frames)), file=file)


def absolute_image(image: Image) -> Image:
    """An image, with the absolute path if it is a file.

    >>> absolute_image(b"content")
    b'content'
    """
    return image.absolute() if isinstance(image, Path) else image


def names_of_images(item: Item) -> tuple[Any, ...]:
    """What stands for the images of an item that are not available: their references.

    >>> names_of_images(Item(0, "a", "What is this?", ("4", "5"), (0,), (1,), "a", images=("a.png",)))
    ('a.png',)
    """
    images = prompt_images(item)
    # Without images in responses the tuple is that of earlier versions.
    return (*images, item.response_images) if item.response_images else images


def prompt_images(item: Item) -> tuple[Any, ...]:
    """The images of the prompt of an item, and its videos by what they are made of.

    >>> item = Item(0, "a", "Why?", ("4", "5"), (0,), (1,), "a", images=("a.png", Video(("1.png",), name="clip")))
    >>> prompt_images(item)[0], prompt_images(item)[1] == prompt_images(replace(item, images=item.images[1:]))[0]
    ('a.png', True)
    """
    # The representation of a video has only its name, which different videos may have.
    return tuple(
        visual_content(image, lambda part: repr(part).encode("utf-8", "surrogatepass"))
        if isinstance(image, Video)
        else image
        for image in item.images
    )


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
        return archived_digest(location, "sha256").hex()
    return file_sha256(location) if Path(location).is_file() else None
