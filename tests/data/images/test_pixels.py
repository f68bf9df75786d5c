"""Bytes on the way, the image processor's own values at the end: against the processor itself, to the bit."""

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
    """Noise: every byte in every channel."""
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
def test_bytes_become_the_processors_own_values(name: str) -> None:
    """For pictures that are resized and pictures that are not, alone and several at once, bit for bit."""
    processor = PROCESSORS[name]
    shades = find_shades(processor)
    assert shades is not None
    pictures = [picture(224, 224), picture(61, 250, seed=1), picture(448, 300, seed=2)]
    pixels, grids = read_pixels(processor, pictures, shades)
    expected = processor(images=pictures, return_tensors="pt")
    assert pixels.patches.dtype == torch.uint8
    assert torch.equal(pixels.values, expected["pixel_values"])
    assert torch.equal(grids, expected["image_grid_thw"])


def test_real_photographs_too(real_rows: Path) -> None:
    """Of the sizes and kinds that people have."""
    processor = PROCESSORS["Qwen2.5-VL"]
    found = [path for path in sorted(real_rows.rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png")]
    assert found
    for path in found[:12]:
        with PIL.Image.open(path) as opened:
            photograph = opened.convert("RGB")
        pixels, _ = read_pixels(processor, [photograph], find_shades(processor))
        assert torch.equal(pixels.values, processor(images=[photograph], return_tensors="pt")["pixel_values"]), path


class Contrast(Qwen2VLImageProcessorPil):
    """Stretches every picture to its own darkest and lightest value: no table of bytes."""

    def normalize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        return (image - image.min()) / (image.max() - image.min() + np.float32(1e-3))


def test_a_processor_that_is_no_table_does_its_own_work() -> None:
    """Its values stay what they are, and travel as they are."""
    processor = Contrast(max_pixels=56 * 56)
    shades = find_shades(processor)
    assert shades is None
    dull = PIL.Image.fromarray(np.full((64, 64, 3), 90, np.uint8) + np.arange(64, dtype=np.uint8)[None, :, None])
    pixels, _ = read_pixels(processor, [dull], shades)
    assert torch.equal(pixels.values, processor(images=[dull], return_tensors="pt")["pixel_values"])


def test_an_eighth_of_the_memory() -> None:
    """A byte for the first frame where the processor has a float32 for both."""
    processor = PROCESSORS["Qwen2.5-VL"]
    pixels, _ = read_pixels(processor, [picture(896, 896)], find_shades(processor))
    assert pixels.patches.nbytes == 896 * 896 * 3
    assert pixels.values.nbytes == 8 * pixels.patches.nbytes


def test_pictures_of_several_groups_are_joined() -> None:
    """In their order."""
    processor = PROCESSORS["a few pixels"]
    shades = find_shades(processor)
    each = [read_pixels(processor, [picture(60, 60, seed=seed)], shades)[0] for seed in range(3)]
    assert torch.equal(Pixels.joined(each).values, torch.cat([pixels.values for pixels in each]))
