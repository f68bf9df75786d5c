"""Reads the images of a group: as patches, or as cached features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.open_images import ImageError, describe, open_image, read_image
from basereward.data.images.pixels import Pixels, Shades, find_shades, read_pixels
from basereward.data.images.vision_features import Features
from basereward.data.schema.group import Image

# The limit of Qwen's image processors, which raise a ValueError for other images.
_MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """The key of an image in the feature store, and its features if the store has them.

    >>> CachedFeatures("0" * 64).features is None
    True
    """

    key: str
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """The images of one group. Shapes: n images, N patches.

    >>> ImageBatch(torch.tensor([[1, 4, 4]]), Pixels(torch.zeros(16, 588))).cached_features
    ()
    """

    thw: Tensor  # (n, 3) patches in time, height and width
    pixels: Pixels | None  # N patches of the images without cached features
    cached_features: tuple[CachedFeatures, ...] = ()  # (n,) with a feature store, else empty


class ImageReader:
    """Reads images for one backbone.

    Args:
        processor: the backbone's image processor; None for a text-only backbone, which reads no images.
        store: the feature store, which is searched before an image is opened; None: features are not cached.
    """

    def __init__(self, processor: Any, *, store: FeatureStore | None = None) -> None:
        self.processor = processor
        self.store = store

    def with_store(self, store: FeatureStore) -> ImageReader:
        """Return a reader that searches a feature store."""
        reader = copy.copy(self)
        reader.store = store
        return reader

    def __call__(self, images: Sequence[Image]) -> ImageBatch:
        """Read the images of a group.

        Raises:
            ImageError: an image cannot be opened.
        """
        if self.store is None:
            all_pixels, all_grids = self._to_patches([self._open(image) for image in images])
            return ImageBatch(all_grids, all_pixels)
        return self._read_uncached(images, self.store)

    def _read_uncached(self, images: Sequence[Image], store: FeatureStore) -> ImageBatch:
        """Look up every image in the store, and open those whose features are not in it."""
        cached, opened = [], []
        for image in images:
            entry, content = self._look_up(image, store)
            cached.append(entry)
            if entry.features is None:
                opened.append(self._open(content, name=describe(image)))
        pixels: Pixels | None = None
        opened_grids: Sequence[Tensor] = ()
        if opened:
            pixels, grids = self._to_patches(opened)
            opened_grids = list(grids)
        # The store keeps the grid of each image, so that positions can be computed without opening the image.
        next_grids = iter(opened_grids)
        thw = []
        for entry in cached:
            thw.append(next(next_grids) if entry.features is None else torch.tensor(entry.features.grids[0]))
        return ImageBatch(torch.stack(thw), pixels, tuple(cached))

    def measure(self, images: Sequence[Image]) -> list[int]:
        """Count the patches of each image without computing them; the images are opened.

        Raises:
            ImageError: as `__call__`, for the same images.
        """
        opened = [self._open(image) for image in images]
        return [int(self.processor.get_number_of_image_patches(image.height, image.width)) for image in opened]

    def _look_up(self, image: Image, store: FeatureStore) -> tuple[CachedFeatures, Image]:
        """Look up an image in the store; also return its content, so that it is not read again from disk."""
        content = read_image(image)
        key = store.key(content)
        return CachedFeatures(key, store.find(key)), content

    def _to_patches(self, images: Sequence[PIL.Image.Image]) -> tuple[Pixels, Tensor]:
        return read_pixels(self.processor, images, self._shades)

    def _open(self, image: Image, *, name: str | None = None) -> PIL.Image.Image:
        opened = open_image(image, name=name)
        # Checked for every processor, so that whether a row is used does not depend on the backbone.
        if max(opened.size) > _MAX_ASPECT_RATIO * min(opened.size):
            size = f"{opened.width} x {opened.height} pixels"
            raise ImageError(
                "image_aspect_ratio", f"{size}; one side may be at most {_MAX_ASPECT_RATIO} times the other"
            )
        return opened

    # The table is found by running the processor on a trial image, which a text-only run never needs.
    @cached_property
    def _shades(self) -> Shades | None:
        return find_shades(self.processor)
