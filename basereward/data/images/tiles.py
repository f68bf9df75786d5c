"""Pictures as tiles of one size, InternVL's way, in the form in which the rest knows pictures: rows of patches.

Shapes: n pictures, T tiles, c channels, h and w pixels of a tile, r rows and k columns of patches in it, a pixels of a
patch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from basereward.errors import ModelError


def to_patches(tiles: Tensor, *, side: int) -> Tensor:
    """`(T, c, h, w)` to `(T * r * k, c * a)`, row by row.

    >>> to_patches(torch.arange(8).view(1, 1, 2, 4), side=2).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    _, _, height, width = tiles.shape
    parts = tiles.reshape(*tiles.shape[:2], height // side, side, width // side, side)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def to_tiles(patches: Tensor, *, rows: int, columns: int, side: int) -> Tensor:
    """What `to_patches` was given.

    >>> to_tiles(torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]]), rows=1, columns=2, side=2).tolist()
    [[[[0, 1, 2, 3], [4, 5, 6, 7]]]]
    """
    parts = patches.view(-1, rows, columns, patches.shape[1] // side**2, side, side)
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def marked(ids: Tensor, repeats: Tensor, places: Tensor, marks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Ids, and how often each comes, with marks before and after those at some places.

    >>> marked(torch.tensor([5, 6]), torch.tensor([1, 4]), torch.tensor([False, True]), (8, 9))
    (tensor([5, 8, 6, 9]), tensor([1, 1, 4, 1]))
    """
    copies = 1 + 2 * places.long()
    ids, repeats = ids.repeat_interleave(copies), repeats.repeat_interleave(copies)
    middle = (copies.cumsum(0) - 2)[places]
    for beside, mark in zip((middle - 1, middle + 1), marks, strict=True):
        ids[beside], repeats[beside] = mark, 1
    return ids, repeats


class TileProcessor:
    """An image processor that makes tiles, with the face of Qwen-VL's: a picture has as many frames as it has tiles.

    Args:
        processor: transformers' GotOcr2 image processor. It is made to cut every picture into tiles, as transformers'
            own processor of InternVL has it do.
        patch_size: side of a patch, in pixels.
        merge_size: side of the square of patches that becomes one visual token.
        min_pixels, max_pixels: of a picture's tiles together, the small one of the whole picture left out; None: as
            the processor has it.

    Raises:
        ModelError: a tile is no square of whole tokens.
    """

    temporal_patch_size = 1

    def __init__(
        self,
        processor: Any,
        *,
        patch_size: int,
        merge_size: int,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.processor = processor
        self.patch_size = patch_size
        self.merge_size = merge_size
        self.tile = (int(processor.size.height), int(processor.size.width))
        height, width = self.tile
        if height != width or height % (patch_size * merge_size):
            raise ModelError(
                f"the image processor makes tiles of {width} x {height} pixels; "
                f"allowed are squares of a multiple of {patch_size * merge_size}. Set size in preprocessor_config.json."
            )
        processor.crop_to_patches = True
        if max_pixels is not None:
            processor.max_patches = max(1, max_pixels // (height * width))
        if min_pixels is not None:
            processor.min_patches = min(max(1, -(-min_pixels // (height * width))), processor.max_patches)

    def __call__(
        self, images: Sequence[PIL.Image.Image], *, temporal_patch_size: int = 1, **options: Any
    ) -> dict[str, Tensor]:
        """As Qwen-VL's: `pixel_values`, the patches of all tiles, and `image_grid_thw`, `(n, 3)`: tiles, r and k."""
        assert temporal_patch_size == 1
        features = self.processor(images=list(images), **options)
        sides = [side // self.patch_size for side in self.tile]
        grids = torch.tensor([[int(tiles), *sides] for tiles in features["num_patches"]])
        return {"pixel_values": to_patches(features["pixel_values"], side=self.patch_size), "image_grid_thw": grids}

    def get_number_of_image_patches(self, height: int, width: int) -> int:
        """Of a picture of this size."""
        rows, columns = (side // self.patch_size for side in self.tile)
        return int(self.processor.get_number_of_image_patches(height, width)) * rows * columns

    def to_json_string(self) -> str:
        """All that the patches of a picture depend on."""
        return str(self.processor.to_json_string()) + json.dumps({"patch": self.patch_size, "merge": self.merge_size})

    def save_pretrained(self, folder: str | Path) -> None:
        """In the hub's format, as the processor does it."""
        self.processor.save_pretrained(folder)
