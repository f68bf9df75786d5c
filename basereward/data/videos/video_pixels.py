"""Cuts the frames of videos into patches, in the form of the patches of images.

Shapes: T patches in time, f frames of a patch, S patches of a frame, c channels, a pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from basereward.data.images.pixels import Pixels, Shades, bytes_of
from basereward.data.videos.clips import Clip


def read_video_pixels(processor: Any, frames: Iterable[PIL.Image.Image], clip: Clip, shades: Shades | None) -> Pixels:
    """Resize frames and cut them into patches.

    Frames are used as they come, those of one patch at a time, so that a long video needs the memory of its patches
    and not that of its frames, which may be many times larger.

    Args:
        processor: an image processor with the interface of Qwen-VL's.
        frames: the frames `clip.padded`, in mode RGB.
        clip: the frames' use.
        shades: the table of the processor; None: the processor itself computes the values.
    """
    at_once = clip.frames_per_patch
    used: list[PIL.Image.Image] = []
    patches: Tensor | None = None
    times = 0
    for frame in frames:
        used.append(resized(frame, clip))
        if len(used) < at_once:
            continue
        values = joined_in_time(_patches(processor, used, shades), clip)
        if patches is None:
            # Once for all, because joining the parts at the end would need the memory twice.
            patches = values.new_empty(clip.grid[0], *values.shape)
        patches[times] = values
        used, times = [], times + 1
    assert patches is not None
    assert times == clip.grid[0]
    return Pixels(patches.flatten(0, 1), shades, frames=1 if shades is None else at_once)


def resized(frame: PIL.Image.Image, clip: Clip) -> PIL.Image.Image:
    """Resize a frame to the size in which a model reads it.

    >>> clip = Clip((0, 1), fps=1.0, total=2, grid=(1, 2, 4), patch_size=14, frames_per_patch=2)
    >>> resized(PIL.Image.new("RGB", (100, 50)), clip).size
    (56, 28)
    """
    # As the image processor does, whose own limits of pixels are those of single images.
    return frame if frame.size == clip.size else frame.resize(clip.size, PIL.Image.Resampling.BICUBIC)


def _patches(processor: Any, frames: list[PIL.Image.Image], shades: Shades | None) -> Tensor:
    """Cut frames into patches of one frame: values, or bytes with a table; `(f * S, c * a)`."""
    if shades is not None:
        return bytes_of(processor, frames, do_resize=False)["pixel_values"].to(torch.uint8)  # type: ignore[no-any-return]
    options = {"do_resize": False, "temporal_patch_size": 1, "return_tensors": "pt"}
    return processor(images=frames, **options)["pixel_values"]  # type: ignore[no-any-return]


def joined_in_time(patches: Tensor, clip: Clip) -> Tensor:
    """Join the patches of frames, `(T * f * S, c * a)`, to those of a video, `(T * S, c * f * a)`.

    Args:
        patches: of some of the frames, for whole patches.
        clip: the frames' use.

    >>> clip = Clip((0, 1), fps=1.0, total=2, grid=(1, 1, 1), patch_size=1, frames_per_patch=2)
    >>> joined_in_time(torch.tensor([[1, 2, 3], [4, 5, 6]]), clip)
    tensor([[1, 4, 2, 5, 3, 6]])
    """
    _, height, width = clip.grid
    parts = patches.reshape(-1, clip.frames_per_patch, height * width, 3, patches.shape[-1] // 3)
    return parts.permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1)
