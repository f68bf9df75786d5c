"""Cuts images into tiles of one size, as InternVL does, and the tiles into patches, as the other families do.

InternVL 1.5 (arXiv 2404.16821, "Dynamic High-Resolution") scales an image to a grid of square tiles and adds a
thumbnail of the whole image. With the tiles as patches, batches, caches and the removal of duplicates need no other
code for this family.

Shapes: n images, T tiles, c channels, h and w pixels of a tile, r rows and k columns of patches in it, a pixels of a
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
    """Cut tiles `(T, c, h, w)` into patches `(T * r * k, c * a)`, row by row.

    Args:
        tiles: the tiles.
        side: the side of a patch, in pixels.

    >>> to_patches(torch.arange(8).view(1, 1, 2, 4), side=2).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    _, _, height, width = tiles.shape
    parts = tiles.reshape(*tiles.shape[:2], height // side, side, width // side, side)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)


def to_tiles(patches: Tensor, *, rows: int, columns: int, side: int) -> Tensor:
    """Join patches `(T * r * k, c * a)` to tiles `(T, c, h, w)`, the inverse of `to_patches`.

    Args:
        patches: the patches.
        rows: r, the rows of patches in a tile.
        columns: k, the columns of patches in a tile.
        side: the side of a patch, in pixels.

    >>> to_tiles(torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]]), rows=1, columns=2, side=2).tolist()
    [[[[0, 1, 2, 3], [4, 5, 6, 7]]]]
    """
    parts = patches.view(-1, rows, columns, patches.shape[1] // side**2, side, side)
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def marked(ids: Tensor, repeats: Tensor, places: Tensor, marks: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Insert tokens before and after some tokens.

    Args:
        ids: the token ids, `(P,)`.
        repeats: how often each token is repeated, `(P,)`.
        places: which tokens get the marks, `(P,)` bool.
        marks: the ids of the tokens to insert before and after.

    Returns:
        The ids and repetitions with the inserted tokens.

    >>> marked(torch.tensor([5, 6]), torch.tensor([1, 4]), torch.tensor([False, True]), (8, 9))
    (tensor([5, 8, 6, 9]), tensor([1, 1, 4, 1]))
    """
    # Every token with marks is copied three times; the copies beside the middle one are overwritten by the marks.
    copies = 1 + 2 * places.long()
    ids, repeats = ids.repeat_interleave(copies), repeats.repeat_interleave(copies)
    middle = (copies.cumsum(0) - 2)[places]
    for beside, mark in zip((middle - 1, middle + 1), marks, strict=True):
        ids[beside], repeats[beside] = mark, 1
    return ids, repeats


class TileProcessor:
    """An image processor for InternVL with the interface of Qwen-VL's: the tiles of an image are its frames in time.

    Args:
        processor: transformers' GotOcr2 image processor. Its setting `crop_to_patches` is turned on, as transformers'
            own InternVL processor does.
        patch_size: the side of a patch, in pixels.
        merge_size: the side of the square of patches that becomes one visual token.
        min_pixels, max_pixels: limits for the pixels of all tiles of an image together, without the thumbnail; None:
            the limits of `processor`.

    Raises:
        ModelError: the tiles are not square, or their side is not a multiple of `patch_size * merge_size`.
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
        # The merger joins squares of patches; transformers' reshape would fail in the middle of a forward pass.
        if height != width or height % (patch_size * merge_size):
            raise ModelError(
                f"the image processor makes tiles of {width} x {height} pixels; they must be squares whose side is a "
                f"multiple of {patch_size * merge_size}. Set size in preprocessor_config.json."
            )
        # The image processor alone does not cut tiles by default: InternVL's processor turns the setting on.
        processor.crop_to_patches = True
        # GotOcr2 calls tiles patches.
        if max_pixels is not None:
            processor.max_patches = max(1, max_pixels // (height * width))
        if min_pixels is not None:
            processor.min_patches = min(max(1, -(-min_pixels // (height * width))), processor.max_patches)

    def __call__(
        self, images: Sequence[PIL.Image.Image], *, temporal_patch_size: int = 1, **options: Any
    ) -> dict[str, Tensor]:
        """Convert images, with the interface of Qwen-VL's image processor.

        Returns:
            `pixel_values`, the patches of all tiles; and `image_grid_thw`, `(n, 3)`, the tiles of each image, r and k.
        """
        # Patches of two frames are for videos. Here a frame is a tile, which must not be joined with another one.
        assert temporal_patch_size == 1
        features = self.processor(images=list(images), **options)
        sides = [side // self.patch_size for side in self.tile]
        grids = torch.tensor([[int(tiles), *sides] for tiles in features["num_patches"]])
        return {"pixel_values": to_patches(features["pixel_values"], side=self.patch_size), "image_grid_thw": grids}

    def get_number_of_image_patches(self, height: int, width: int) -> int:
        """Count the patches of an image of this size, in pixels."""
        rows, columns = (side // self.patch_size for side in self.tile)
        return int(self.processor.get_number_of_image_patches(height, width)) * rows * columns

    def to_json_string(self) -> str:
        """Return everything that the patches of an image depend on, as text for hashes."""
        return str(self.processor.to_json_string()) + json.dumps({"patch": self.patch_size, "merge": self.merge_size})

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the processor in the format of the hub."""
        # Without the settings of this class, which are derived from the model's configuration when it is loaded.
        self.processor.save_pretrained(folder)
