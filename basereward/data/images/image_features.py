"""The pictures of a group: opened and cut into patches, or their features where those are kept."""

from __future__ import annotations

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

_MAX_ASPECT_RATIO = 200  # Qwen's image processors refuse longer pictures


@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """A picture that has a name in the store of features, and what was found there."""

    key: str
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Of one group. Shapes: n pictures, N patches."""

    thw: Tensor  # (n, 3) patches in time, height and width
    pixels: Pixels | None  # N patches, of the pictures without features
    known: tuple[CachedFeatures, ...] = ()  # n where features are kept, else none


class PictureReader:
    """Reads pictures for one backbone.

    Args:
        processor: the backbone's image processor.

    Attributes:
        store: where features are kept and looked for before a picture is opened; None: nowhere.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.store: FeatureStore | None = None

    def __call__(self, images: Sequence[Image]) -> ImageBatch:
        """
        Raises:
            ImageError: one cannot be opened.
        """
        if self.store is None:
            pixels, grids = self._cut([self._open(image) for image in images])
            return ImageBatch(grids, pixels)
        looked_up = [(self._look_up(image, self.store), describe(image)) for image in images]
        unknown = [self._open(content, name=name) for (known, content), name in looked_up if known.features is None]
        cut = self._cut(unknown) if unknown else None
        found = iter(() if cut is None else cut[1])
        known = tuple(known for (known, _), _ in looked_up)
        thw = [next(found) if each.features is None else torch.tensor(each.features.grids[0]) for each in known]
        return ImageBatch(torch.stack(thw), None if cut is None else cut[0], known)

    def measure(self, images: Sequence[Image]) -> list[int]:
        """Patches of every picture, which is opened but not cut.

        Raises:
            ImageError: as `__call__`, for the same pictures.
        """
        pictures = [self._open(image) for image in images]
        return [int(self.processor.get_number_of_image_patches(each.height, each.width)) for each in pictures]

    def _look_up(self, image: Image, store: FeatureStore) -> tuple[CachedFeatures, Image]:
        """What is known of a picture, and what to open where that is not enough: the same content."""
        content = read_image(image)
        key = store.key(content)
        return CachedFeatures(key, store.find(key)), content

    def _cut(self, pictures: Sequence[PIL.Image.Image]) -> tuple[Pixels, Tensor]:
        return read_pixels(self.processor, pictures, self._shades)

    def _open(self, image: Image, *, name: str | None = None) -> PIL.Image.Image:
        picture = open_image(image, name=name)
        if max(picture.size) > _MAX_ASPECT_RATIO * min(picture.size):
            detail = f"{picture.width} x {picture.height} pixels; one side may be {_MAX_ASPECT_RATIO} times the other"
            raise ImageError("image_aspect_ratio", detail)
        return picture

    @cached_property
    def _shades(self) -> Shades | None:
        return find_shades(self.processor)
