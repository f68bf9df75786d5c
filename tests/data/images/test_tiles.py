"""InternVL's tiles equal those of the image processor of transformers, and are stored as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import GotOcr2ImageProcessorPil

from basereward.data.images.pixels import find_shades, read_pixels
from basereward.data.images.tiles import TileProcessor, to_tiles
from basereward.errors import ModelError

COLOURS: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SIZES = ((112, 112), (61, 250), (448, 300), (1000, 90), (20, 20), (3, 40))


def processor(side: int = 56, **options: Any) -> GotOcr2ImageProcessorPil:
    """Return the image processor of transformers with tiles of `side` pixels."""
    return GotOcr2ImageProcessorPil(size={"height": side, "width": side}, **COLOURS, **options)


def pictures() -> list[PIL.Image.Image]:
    """Return images of random noise in many shapes."""
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.mark.parametrize("side", [56, 448])
def test_tiles_equal_those_of_transformers(side: int) -> None:
    """Bit for bit, although stored as bytes and patches. The number of patches is known without cutting an image."""
    tile_processor = TileProcessor(processor(side), patch_size=14, merge_size=2)
    shades = find_shades(tile_processor)
    assert shades is not None
    pixels, grids = read_pixels(tile_processor, pictures(), shades)
    expected = processor(side)(images=pictures(), crop_to_patches=True, return_tensors="pt")
    assert pixels.patches.dtype == torch.uint8
    assert torch.equal(to_tiles(pixels.values, rows=side // 14, columns=side // 14, side=14), expected["pixel_values"])
    assert grids.tolist() == [[n, side // 14, side // 14] for n in expected["num_patches"].tolist()]
    assert max(expected["num_patches"]) == 13
    num_patches = [tile_processor.get_number_of_image_patches(height, width) for width, height in SIZES]
    assert num_patches == grids.prod(-1).tolist()


def test_pixel_limits_bound_the_number_of_tiles() -> None:
    """At most four tiles and the thumbnail, only the thumbnail, or at least two tiles."""
    at_most_four = TileProcessor(processor(), patch_size=14, merge_size=2, max_pixels=5 * 56 * 56 - 1)
    assert at_most_four.processor.max_patches == 4
    assert max(at_most_four.get_number_of_image_patches(h, w) for w, h in SIZES) == 5 * 16
    thumbnail_only = TileProcessor(processor(), patch_size=14, merge_size=2, max_pixels=1)
    assert {thumbnail_only.get_number_of_image_patches(h, w) for w, h in SIZES} == {16}
    at_least_two = TileProcessor(processor(), patch_size=14, merge_size=2, min_pixels=56 * 56 + 1)
    assert at_least_two.get_number_of_image_patches(20, 20) == 5 * 16


def test_tile_size_must_fit_the_tokens() -> None:
    """Tiles that are not square, or whose side is no multiple of a token's."""
    for size in ({"height": 56, "width": 28}, {"height": 42, "width": 42}):
        with pytest.raises(ModelError, match="multiple of 28"):
            TileProcessor(GotOcr2ImageProcessorPil(size=size), patch_size=14, merge_size=2)
