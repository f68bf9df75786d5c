"""Keeps images as bytes until the vision tower reads them.

Image processors convert every byte of an image to float32 and repeat it for every frame of a patch, which takes eight
times the memory, and eight times the transfer from the worker processes. Here patches are transferred as bytes, and
the values of the processor are looked up in a table afterwards, with identical bits.

Shapes: N patches, c channels, f frames of a patch in time, a pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

# Side of the trial image: a multiple of 28 and of 32, which are two patches of 14 and of 16 pixels.
_SIDE = 224
# Patches that are looked up together, to stay within the cache of a core.
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Shades:
    """The rescaling and normalization of an image processor as a table from bytes to values.

    >>> shades = Shades(torch.arange(256).expand(3, -1) / 255, frames=2)
    >>> shades.unpack(torch.tensor([[0, 255, 51]], dtype=torch.uint8)).tolist()
    [[0.0, 0.0, 1.0, 1.0, 0.20000000298023224, 0.20000000298023224]]
    """

    table: Tensor  # (c, 256) float32
    frames: int  # f

    def unpack(self, patches: Tensor, *, frames: int = 1) -> Tensor:
        """Convert bytes to the processor's values, `(N, c * f * a)`.

        Args:
            patches: bytes of one frame, which is repeated, `(N, c * a)` uint8; or of f frames, `(N, c * f * a)`.
            frames: 1 or f.
        """
        channels = len(self.table)
        shape = (len(patches), channels, frames, patches.shape[1] // channels // frames)
        if patches.device.type != "cpu":
            levels_by_channel = patches.view(shape)
            # Indexing by bytes would be read as a mask.
            values = [shade[levels_by_channel[:, c].int()] for c, shade in enumerate(self.table.to(patches.device))]
            return torch.stack(values, dim=1).expand(-1, -1, self.frames, -1).flatten(1)
        # NumPy, because torch's threads would mostly wait for cores that are busy with loading.
        levels = patches.numpy().reshape(shape)
        unpacked = np.empty((len(patches), channels, self.frames, shape[-1]), np.float32)
        for start in range(0, len(patches), _AT_ONCE):
            span = slice(start, start + _AT_ONCE)
            for c, shade in enumerate(self.table.numpy()):
                unpacked[span, c] = shade.take(levels[span, c])
        return torch.from_numpy(unpacked).flatten(1)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Patches of images: bytes with their table, or the values themselves if a table cannot replace the processor.

    >>> Pixels(torch.zeros(2, 6)).map(lambda patches: patches[:1]).values.shape
    torch.Size([1, 6])
    """

    patches: Tensor  # (N, c * a) uint8, or of videos (N, c * f * a) uint8, or (N, c * f * a) float32
    shades: Shades | None = None
    frames: int = 1  # of a patch in bytes: 1 if all its frames are the same, else f

    @property
    def values(self) -> Tensor:
        """The input of the vision tower, `(N, c * f * a)` float32."""
        return self.patches if self.shades is None else self.shades.unpack(self.patches, frames=self.frames)

    def map(self, change: Callable[[Tensor], Tensor]) -> Pixels:
        """Apply a function to the patches."""
        return replace(self, patches=change(self.patches))

    @staticmethod
    def joined(pixels: Sequence[Pixels]) -> Pixels:
        """Concatenate patches of one processor. Beside patches of videos, those of images repeat their frame.

        >>> image, video = Pixels(torch.tensor([[1, 2, 3]])), Pixels(torch.tensor([[1, 4, 2, 5, 3, 6]]), frames=2)
        >>> Pixels.joined([image, video]).patches.tolist()
        [[1, 1, 2, 2, 3, 3], [1, 4, 2, 5, 3, 6]]
        """
        frames = max(part.frames for part in pixels)
        patches = [part.patches if part.frames == frames else _repeated(part.patches, frames) for part in pixels]
        return replace(pixels[0], patches=torch.cat(patches), frames=frames)


def _repeated(patches: Tensor, frames: int) -> Tensor:
    """Repeat the one frame of patches, `(N, c * a)` to `(N, c * f * a)`."""
    parts = patches.reshape(len(patches), 3, 1, -1)
    return parts.expand(-1, -1, frames, -1).flatten(1)


def read_pixels(processor: Any, images: Sequence[PIL.Image.Image], shades: Shades | None) -> tuple[Pixels, Tensor]:
    """Cut images into patches.

    Args:
        processor: an image processor of transformers for Qwen-VL, or one with the same interface, such as
            `TileProcessor`.
        images: n images in mode RGB.
        shades: the table of the processor, from `find_shades`; None: the processor itself computes the values.

    Returns:
        The patches of all images, and the patches of each image in time, height and width, `(n, 3)`.
    """
    if shades is None:
        features = processor(images=list(images), return_tensors="pt")
        return Pixels(features["pixel_values"]), features["image_grid_thw"]
    features = bytes_of(processor, images)
    return Pixels(features["pixel_values"].to(torch.uint8), shades), features["image_grid_thw"]


def find_shades(processor: Any) -> Shades | None:
    """Find the table of an image processor by running it on two trial images.

    Args:
        processor: as in `read_pixels`.

    Returns:
        The table. None if a table cannot replace the processor: if a value depends on more than one byte of the image,
        or if the values of a patch are in another order than Qwen-VL's (channel, frame, height, width).
    """
    # For a processor of tiles, the first image is exactly one tile.
    height, width = getattr(processor, "tile", (_SIDE, _SIDE))
    ramp = np.arange(height * width * 3).reshape(height, width, 3)
    # The first image contains every level of every channel; the table is read from it.
    every_level = PIL.Image.fromarray(((ramp // 3 + ramp % 3 * 85) % 256).astype(np.uint8))
    # The second image is resized. It shows whether the table is also right for interpolated levels.
    noise = np.random.default_rng(0).integers(0, 256, (height - 9, width + 23, 3), dtype=np.uint8)
    resized = PIL.Image.fromarray(noise)
    frames = int(processor.temporal_patch_size)
    values = processor(images=[every_level], do_resize=False, return_tensors="pt")["pixel_values"]
    levels = bytes_of(processor, [every_level], do_resize=False)["pixel_values"]
    if any(len(shades.unique()) < 256 for shades in _by_channel(levels)):
        return None
    first = values.view(len(values), 3, frames, -1)[:, :, 0]
    table = torch.zeros(3, 256).scatter_(1, _by_channel(levels).long(), _by_channel(first))
    shades = Shades(table, frames)
    expected = [values, processor(images=[resized], return_tensors="pt")["pixel_values"]]
    unnormalized = [levels, bytes_of(processor, [resized])["pixel_values"]]
    for image_bytes, image_values in zip(unnormalized, expected, strict=True):
        if not torch.equal(shades.unpack(image_bytes.to(torch.uint8)), image_values):
            return None
    return shades


def _by_channel(patches: Tensor) -> Tensor:
    """Reshape patches from `(N, c, a)` or `(N, c * a)` to `(c, N * a)`."""
    return patches.reshape(len(patches), 3, -1).movedim(1, 0).flatten(1)


def bytes_of(processor: Any, images: Sequence[PIL.Image.Image], **options: Any) -> Any:
    """Cut images into patches of one frame with whole values from 0 to 255, in the data type of the processor.

    Args:
        processor: as in `read_pixels`.
        images: n images in mode RGB.
        options: of the processor.
    """
    # Rescaling, normalization and the repetition of frames are what the table replaces.
    plain = {"do_rescale": False, "do_normalize": False, "temporal_patch_size": 1, "return_tensors": "pt"}
    return processor(images=list(images), **plain, **options)
