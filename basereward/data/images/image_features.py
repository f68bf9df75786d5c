"""Reads the images and videos of a group: as patches, or as cached features."""

from __future__ import annotations

import copy
import hashlib
import math
from collections import deque
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
from basereward.data.images.vision_features import Features, Grid
from basereward.data.schema.group import Video, Visual
from basereward.data.schema.rejections import RowRejected
from basereward.data.videos.clips import Clip, VideoProcessor
from basereward.data.videos.open_videos import read_frames, video_facts
from basereward.data.videos.video_pixels import read_video_pixels

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
    """The images and videos of one group. Shapes: n images and videos, N patches.

    >>> ImageBatch(torch.tensor([[1, 4, 4]]), Pixels(torch.zeros(16, 588))).cached_features
    ()
    """

    thw: Tensor  # (n, 3) patches in time, height and width
    pixels: Pixels | None  # N patches of the images without cached features
    cached_features: tuple[CachedFeatures, ...] = ()  # (n,) with a feature store, else empty
    clips: tuple[Clip | None, ...] = ()  # (n,) of the videos, and None for images; empty without videos


class ImageReader:
    """Reads images for one backbone.

    Args:
        processor: the backbone's image processor; None for a text-only backbone, which reads no images.
        store: the feature store, which is searched before an image is opened; None: features are not cached.
        videos: the backbone's video processor; None: it reads no videos.
        max_tokens: the largest number of tokens of a group; a longer video is rejected before it is decoded. None: no
            video is too long.
    """

    def __init__(
        self,
        processor: Any,
        *,
        store: FeatureStore | None = None,
        videos: VideoProcessor | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.processor = processor
        self.max_tokens = max_tokens
        self.store = store
        self.videos = videos

    def with_store(self, store: FeatureStore) -> ImageReader:
        """Return a reader that searches a feature store."""
        reader = copy.copy(self)
        reader.store = store
        return reader

    def __call__(self, images: Sequence[Visual]) -> ImageBatch:
        """Read the images and videos of a group.

        Raises:
            ImageError: an image or a video cannot be opened.
        """
        if any(isinstance(image, Video) for image in images):
            return self._read_with_videos(images)
        if self.store is None:
            all_pixels, all_grids = _joined([self._to_patches(self._open(image)) for image in images])
            return ImageBatch(all_grids, all_pixels)
        return self._read_uncached(images, self.store)

    def _read_with_videos(self, images: Sequence[Visual]) -> ImageBatch:
        """Read images and videos, each alone, since their patches have different numbers of frames."""
        batches = [self._read_video(image) if isinstance(image, Video) else self((image,)) for image in images]
        pixels = [batch.pixels for batch in batches if batch.pixels is not None]
        cached: tuple[CachedFeatures, ...] = ()
        clips: tuple[Clip | None, ...] = ()
        for batch in batches:
            cached += batch.cached_features
            clips += batch.clips or (None,)
        thw = torch.cat([batch.thw for batch in batches])
        return ImageBatch(thw, Pixels.joined(pixels) if pixels else None, cached, clips)

    def _read_video(self, video: Video) -> ImageBatch:
        """Open a video, and cut the frames that are used into patches."""
        processor = self._video_processor(video)
        clip = self._clip(video)
        thw = torch.tensor([clip.grid])
        frames = read_frames(video, clip.padded)
        pixels = read_video_pixels(processor.frame_processor, frames, clip, self._video_shades)
        if self.store is None:
            return ImageBatch(thw, pixels, clips=(clip,))
        # The key is that of the patches, which depend on the choice of frames and on their size.
        digest = hashlib.sha256(repr(clip.grid).encode())
        digest.update(pixels.patches.numpy().data)
        key = self.store.key(digest.digest())
        entry = CachedFeatures(key, self.store.find(key))
        return ImageBatch(thw, pixels if entry.features is None else None, (entry,), (clip,))

    def _video_processor(self, video: Video) -> VideoProcessor:
        if self.videos is None:
            raise ImageError("video_without_model", f"the row has a video, {video.name}, and the backbone reads none")
        return self.videos

    def _clip(self, video: Video) -> Clip:
        """The frames of a video that are used.

        Raises:
            RowRejected: `too_long`. Its patches would be made first otherwise, which may be gigabytes.
        """
        processor = self._video_processor(video)
        clip = processor.clip(video_facts(video))
        tokens = sum(processor.token_counts(clip))
        if self.max_tokens is not None and tokens > self.max_tokens:
            detail = f"{tokens} tokens of {len(clip.indices)} frames of {video.name}"
            advice = "set data.encoding.video.frames or frame_pixels lower"
            raise RowRejected("too_long", f"{detail}; data.encoding.max_tokens allows {self.max_tokens}; {advice}")
        return clip

    def layout(self, images: Sequence[Visual]) -> list[tuple[Grid, Clip | None]]:
        """Find the patches of each image and video, and the frames of each video, without computing them.

        The grid of an image has only the right product. Files are opened.

        Raises:
            ImageError: as `__call__`, for the same images.
        """
        found: list[tuple[Grid, Clip | None]] = []
        for image in images:
            if isinstance(image, Video):
                clip = self._clip(image)
                # Decoded, as images are: a damaged frame must not be found in the middle of a training.
                deque(read_frames(image, clip.indices), maxlen=0)
                found.append((clip.grid, clip))
            else:
                opened = self._open(image)
                patches = int(self.processor.get_number_of_image_patches(opened.height, opened.width))
                found.append(((1, 1, patches), None))
        return found

    def _read_uncached(self, images: Sequence[Visual], store: FeatureStore) -> ImageBatch:
        """Look up every image in the store, and open those whose features are not in it."""
        cached, opened = [], []
        for image in images:
            entry, content = self._look_up(image, store)
            cached.append(entry)
            if entry.features is None:
                opened.append(self._to_patches(self._open(content, name=describe(image))))
        pixels: Pixels | None = None
        opened_grids: Sequence[Tensor] = ()
        if opened:
            pixels, grids = _joined(opened)
            opened_grids = list(grids)
        # The store keeps the grid of each image, so that positions can be computed without opening the image.
        next_grids = iter(opened_grids)
        thw = []
        for entry in cached:
            thw.append(next(next_grids) if entry.features is None else torch.tensor(entry.features.grids[0]))
        return ImageBatch(torch.stack(thw), pixels, tuple(cached))

    def measure(self, images: Sequence[Visual]) -> list[int]:
        """Count the patches of each image and video without computing them; the files are opened.

        Raises:
            ImageError: as `__call__`, for the same images.
        """
        return [math.prod(grid) for grid, _ in self.layout(images)]

    def _look_up(self, image: Visual, store: FeatureStore) -> tuple[CachedFeatures, bytes | PIL.Image.Image]:
        """Look up an image in the store; also return its content, so that it is not read again from disk."""
        content = read_image(image)
        key = store.key(content)
        return CachedFeatures(key, store.find(key)), content

    def _to_patches(self, image: PIL.Image.Image) -> tuple[Pixels, Tensor]:
        # One after another: images of full size may take many times the memory of their patches.
        return read_pixels(self.processor, [image], self._shades)

    def _open(self, image: Visual, *, name: str | None = None) -> PIL.Image.Image:
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

    @cached_property
    def _video_shades(self) -> Shades | None:
        return None if self.videos is None else find_shades(self.videos.frame_processor)


def _joined(parts: Sequence[tuple[Pixels, Tensor]]) -> tuple[Pixels, Tensor]:
    """The patches and the grids of several images."""
    if len(parts) == 1:
        return parts[0]
    return Pixels.joined([pixels for pixels, _ in parts]), torch.cat([grids for _, grids in parts])
