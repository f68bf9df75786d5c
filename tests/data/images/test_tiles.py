"""InternVL's tiles: those of transformers' own image processor, as bytes on the way."""

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
    """Transformers' own, of small tiles."""
    return GotOcr2ImageProcessorPil(size={"height": side, "width": side}, **COLOURS, **options)


def pictures() -> list[PIL.Image.Image]:
    """Noise in many shapes."""
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.mark.parametrize("side", [56, 448])
def test_tiles_are_those_of_transformers(side: int) -> None:
    """Bit for bit, after they went as bytes and as patches; and as many as are told of a picture that is not cut."""
    ours = TileProcessor(processor(side), patch_size=14, merge_size=2)
    shades = find_shades(ours)
    assert shades is not None
    pixels, grids = read_pixels(ours, pictures(), shades)
    expected = processor(side)(images=pictures(), crop_to_patches=True, return_tensors="pt")
    assert pixels.patches.dtype == torch.uint8
    assert torch.equal(to_tiles(pixels.values, rows=side // 14, columns=side // 14, side=14), expected["pixel_values"])
    assert grids.tolist() == [[n, side // 14, side // 14] for n in expected["num_patches"].tolist()]
    assert max(expected["num_patches"]) == 13
    told = [ours.get_number_of_image_patches(height, width) for width, height in SIZES]
    assert told == grids.prod(-1).tolist()


def test_fewer_pixels_are_fewer_tiles() -> None:
    """Four tiles at most, and one of the whole picture; or at least two."""
    few = TileProcessor(processor(), patch_size=14, merge_size=2, max_pixels=5 * 56 * 56 - 1)
    assert few.processor.max_patches == 4
    assert max(few.get_number_of_image_patches(h, w) for w, h in SIZES) == 5 * 16
    one = TileProcessor(processor(), patch_size=14, merge_size=2, max_pixels=1)
    assert {one.get_number_of_image_patches(h, w) for w, h in SIZES} == {16}
    two = TileProcessor(processor(), patch_size=14, merge_size=2, min_pixels=56 * 56 + 1)
    assert two.get_number_of_image_patches(20, 20) == 5 * 16


def test_tiles_of_broken_tokens_are_refused() -> None:
    """Tiles that are no squares, or end within a token."""
    for size in ({"height": 56, "width": 28}, {"height": 42, "width": 42}):
        with pytest.raises(ModelError, match="squares of a multiple of 28"):
            TileProcessor(GotOcr2ImageProcessorPil(size=size), patch_size=14, merge_size=2)
