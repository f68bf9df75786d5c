"""Keeps images as bytes until the vision tower reads them.

Image processors convert every byte of an image to float32 and repeat it for every frame of a patch, which takes eight
times the memory and transfer from the worker processes. Here patches are transferred as bytes, and the values of the
processor are looked up in a table afterwards, with identical bits.

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

_SIDE = 224  # side of the trial image: a multiple of 28 and of 32, which are two patches of 14 and of 16 pixels
_AT_ONCE = 256  # patches that are looked up together, to stay within the cache of a core


@dataclass(frozen=True, slots=True)
class Shades:
    """The rescaling and normalization of an image processor as a table from bytes to values."""

    table: Tensor  # (c, 256) float32
    frames: int  # f

    def unpack(self, patches: Tensor) -> Tensor:
        """Convert bytes of one frame, `(N, c * a)` uint8, to the processor's values, `(N, c * f * a)`."""
        channels = len(self.table)
        shape = (len(patches), channels, 1, patches.shape[1] // channels)
        if patches.device.type != "cpu":
            found = [shade[patches.view(shape)[:, c].int()] for c, shade in enumerate(self.table.to(patches.device))]
            return torch.stack(found, dim=1).expand(-1, -1, self.frames, -1).flatten(1)
        # NumPy, because torch's threads would mostly wait for cores that are busy with loading.
        levels = patches.numpy().reshape(shape)
        values = np.empty((len(patches), channels, self.frames, shape[-1]), np.float32)
        for start in range(0, len(patches), _AT_ONCE):
            span = slice(start, start + _AT_ONCE)
            for c, shade in enumerate(self.table.numpy()):
                values[span, c] = shade.take(levels[span, c])
        return torch.from_numpy(values).flatten(1)


@dataclass(frozen=True, slots=True)
class Pixels:
    """Patches of images: bytes with their table, or the values themselves if the processor is no table."""

    patches: Tensor  # (N, c * a) uint8, or (N, c * f * a) float32
    shades: Shades | None = None

    @property
    def values(self) -> Tensor:
        """The input of the vision tower, `(N, c * f * a)` float32."""
        return self.patches if self.shades is None else self.shades.unpack(self.patches)

    def map(self, change: Callable[[Tensor], Tensor]) -> Pixels:
        return replace(self, patches=change(self.patches))

    @staticmethod
    def joined(pixels: Sequence[Pixels]) -> Pixels:
        """Concatenate patches of one processor."""
        return replace(pixels[0], patches=torch.cat([part.patches for part in pixels]))


def read_pixels(processor: Any, pictures: Sequence[PIL.Image.Image], shades: Shades | None) -> tuple[Pixels, Tensor]:
    """Patches of all pictures, and the patches of each in time, height and width, `(n, 3)`.

    Args:
        processor: an image processor of transformers' Qwen-VL kind, or one of tiles that looks like it.
        pictures: n pictures in mode RGB.
        shades: the processor's; None has it do the whole work itself.
    """
    if shades is None:
        features = processor(images=list(pictures), return_tensors="pt")
        return Pixels(features["pixel_values"]), features["image_grid_thw"]
    features = _bytes_of(processor, pictures)
    return Pixels(features["pixel_values"].to(torch.uint8), shades), features["image_grid_thw"]


def find_shades(processor: Any) -> Shades | None:
    """The processor's table, found by trial; None if it is not one: if the values of a patch depend on more than its
    bytes, or stand in another order than Qwen-VL's channel, frame, height, width."""
    height, width = getattr(processor, "tile", (_SIDE, _SIDE))
    ramp = np.arange(height * width * 3).reshape(height, width, 3)
    every_level = PIL.Image.fromarray(((ramp // 3 + ramp % 3 * 85) % 256).astype(np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (height - 9, width + 23, 3), dtype=np.uint8)
    resized = PIL.Image.fromarray(noise)
    frames = int(processor.temporal_patch_size)
    values = processor(images=[every_level], do_resize=False, return_tensors="pt")["pixel_values"]
    levels = _bytes_of(processor, [every_level], do_resize=False)["pixel_values"]
    if any(len(shades.unique()) < 256 for shades in _by_channel(levels)):
        return None
    first = values.view(len(values), 3, frames, -1)[:, :, 0]
    table = torch.zeros(3, 256).scatter_(1, _by_channel(levels).long(), _by_channel(first))
    shades = Shades(table, frames)
    expected = [values, processor(images=[resized], return_tensors="pt")["pixel_values"]]
    found = [levels, _bytes_of(processor, [resized])["pixel_values"]]
    same = all(torch.equal(shades.unpack(f.to(torch.uint8)), e) for f, e in zip(found, expected, strict=True))
    return shades if same else None


def _by_channel(patches: Tensor) -> Tensor:
    """`(N, c, a)` or `(N, c * a)` to `(c, N * a)`."""
    return patches.reshape(len(patches), 3, -1).movedim(1, 0).flatten(1)


def _bytes_of(processor: Any, pictures: Sequence[PIL.Image.Image], **options: Any) -> Any:
    """Patches of one frame whose values are whole numbers of 0 to 255, in the processor's own type."""
    plain = {"do_rescale": False, "do_normalize": False, "temporal_patch_size": 1, "return_tensors": "pt"}
    return processor(images=list(pictures), **plain, **options)
