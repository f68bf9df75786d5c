"""Pixels are stored as bytes and become the image processor's own values, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import Qwen2VLImageProcessorPil

from basereward.data.images.pixels import Pixels, find_shades, read_pixels


def picture(width: int, height: int, *, seed: int = 0) -> PIL.Image.Image:
    """Return an image of random noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise)


PROCESSORS = {
    "Qwen2.5-VL": Qwen2VLImageProcessorPil(),
    "Qwen3-VL": Qwen2VLImageProcessorPil(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
    "a few pixels": Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
    "many pixels": Qwen2VLImageProcessorPil(min_pixels=1024 * 28 * 28),
    "no rescaling": Qwen2VLImageProcessorPil(do_rescale=False),
    "one frame": Qwen2VLImageProcessorPil(temporal_patch_size=1),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_values_equal_the_image_processor(name: str) -> None:
    """Bit for bit, for several images with and without resizing."""
    processor = PROCESSORS[name]
    shades = find_shades(processor)
    assert shades is not None
    pictures = [picture(224, 224), picture(61, 250, seed=1), picture(448, 300, seed=2)]
    pixels, grids = read_pixels(processor, pictures, shades)
    expected = processor(images=pictures, return_tensors="pt")
    assert pixels.patches.dtype == torch.uint8
    assert torch.equal(pixels.values, expected["pixel_values"])
    assert torch.equal(grids, expected["image_grid_thw"])


def test_values_of_photographs_equal_the_image_processor(real_rows: Path) -> None:
    """Photographs have other sizes and modes than the generated images."""
    processor = PROCESSORS["Qwen2.5-VL"]
    paths = [path for path in sorted(real_rows.rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
    assert paths
    for path in paths[:12]:
        with PIL.Image.open(path) as opened:
            photograph = opened.convert("RGB")
        pixels, _ = read_pixels(processor, [photograph], find_shades(processor))
        assert torch.equal(pixels.values, processor(images=[photograph], return_tensors="pt")["pixel_values"]), path


class Contrast(Qwen2VLImageProcessorPil):
    """An image processor that stretches the contrast of each image, which no table of bytes can express."""

    def normalize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return (image - image.min()) / (image.max() - image.min() + np.float32(1e-3))


def test_processor_without_a_table_keeps_its_values() -> None:
    """The values are stored as floats."""
    processor = Contrast(max_pixels=56 * 56)
    shades = find_shades(processor)
    assert shades is None
    low_contrast = PIL.Image.fromarray(
        np.full((64, 64, 3), 90, np.uint8) + np.arange(64, dtype=np.uint8)[None, :, None]
    )
    pixels, _ = read_pixels(processor, [low_contrast], shades)
    assert torch.equal(pixels.values, processor(images=[low_contrast], return_tensors="pt")["pixel_values"])


def test_patches_take_an_eighth_of_the_memory() -> None:
    """One byte for the first frame, where the processor has float32 for two equal frames."""
    processor = PROCESSORS["Qwen2.5-VL"]
    pixels, _ = read_pixels(processor, [picture(896, 896)], find_shades(processor))
    assert pixels.patches.nbytes == 896 * 896 * 3
    assert pixels.values.nbytes == 8 * pixels.patches.nbytes


def test_joined_pixels_keep_the_order() -> None:
    """The joined values are the concatenated values."""
    processor = PROCESSORS["a few pixels"]
    shades = find_shades(processor)
    parts = [read_pixels(processor, [picture(60, 60, seed=seed)], shades)[0] for seed in range(3)]
    assert torch.equal(Pixels.joined(parts).values, torch.cat([pixels.values for pixels in parts]))
