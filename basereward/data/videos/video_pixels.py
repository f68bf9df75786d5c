"""Cuts the frames of videos into patches, in the form of the patches of images.

Shapes: T patches in time, f frames of a patch, S patches of a frame, c channels, a pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from basereward.data.images.pixels import Pixels, Shades, bytes_of
from basereward.data.videos.clips import Clip


def read_video_pixels(processor: Any, frames: Sequence[PIL.Image.Image], clip: Clip, shades: Shades | None) -> Pixels:
    """Resize frames and cut them into patches.

    Args:
        processor: an image processor with the interface of Qwen-VL's.
        frames: the frames `clip.padded`, in mode RGB.
        clip: the frames' use.
        shades: the table of the processor; None: the processor itself computes the values.
    """
    resized = []
    for frame in frames:
        # As the image processor does, whose own limits of pixels are those of single images.
        resized.append(frame if frame.size == clip.size else frame.resize(clip.size, PIL.Image.Resampling.BICUBIC))
    if shades is None:
        options = {"do_resize": False, "temporal_patch_size": 1, "return_tensors": "pt"}
        values = processor(images=resized, **options)["pixel_values"]
        return Pixels(joined_in_time(values, clip), None)
    patches = bytes_of(processor, resized, do_resize=False)["pixel_values"]
    return Pixels(joined_in_time(patches, clip).to(torch.uint8), shades, frames=clip.frames_per_patch)


def joined_in_time(patches: Tensor, clip: Clip) -> Tensor:
    """Join the patches of frames, `(T * f * S, c * a)`, to those of a video, `(T * S, c * f * a)`.

    >>> clip = Clip((0, 1), fps=1.0, total=2, grid=(1, 1, 1), patch_size=1, frames_per_patch=2)
    >>> joined_in_time(torch.tensor([[1, 2, 3], [4, 5, 6]]), clip)
    tensor([[1, 4, 2, 5, 3, 6]])
    """
    time, height, width = clip.grid
    parts = patches.reshape(time, clip.frames_per_patch, height * width, 3, -1)
    return parts.permute(0, 2, 3, 1, 4).reshape(time * height * width, -1)
