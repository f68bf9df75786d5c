"""Rows and images that are unusual but valid are used correctly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from basereward.data.encoding.encoder import Encoder
from tests.helpers.bad_rows import GOOD_IDS, as_line, local, read_data, row_with, used_groups, write_lines
from tests.helpers.support import picture


def _plain() -> PIL.Image.Image:
    """Return a digit with a white square in its upper left corner."""
    image = picture(0)
    image.paste("white", (0, 0, 28, 28))
    return image


def _write_rotated(path: Path) -> None:
    """Write a rotated image whose EXIF orientation undoes the rotation."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    _plain().transpose(PIL.Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)


def _write_sixteen_bits(path: Path) -> None:
    """Write a 16-bit grey image."""
    PIL.Image.fromarray(np.asarray(_plain().convert("L"), dtype=np.uint16) * 257).save(path, "PNG")


def _write_animated(path: Path) -> None:
    """Write an animated GIF."""
    _plain().convert("L").save(path, "GIF", save_all=True, append_images=[picture(i).convert("L") for i in (1, 2)])


def _write_transparent(path: Path) -> None:
    """Write an image with a transparent corner."""
    image = _plain().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 28, 28))
    image.save(path, "PNG")


# How the image is written, and the tolerance of its pixel values, whose spread is about one.
STORED: dict[str, tuple[Callable[[Path], object], float]] = {
    "a CMYK JPEG": (lambda path: _plain().convert("CMYK").save(path, "JPEG", quality=100, subsampling=0), 0.2),
    "16 bits": (_write_sixteen_bits, 0),
    "an animated GIF": (_write_animated, 0),
    "turned by the camera": (_write_rotated, 0),
    "with a corner that cannot be seen": (_write_transparent, 0),
    "a WebP named .png": (lambda path: _plain().save(path, "WEBP", lossless=True), 0),
}


@pytest.mark.parametrize("name", STORED)
def test_unusual_image_equals_the_plain_image(
    name: str, small_encoder: Encoder, good: list[bytes], tmp_path: Path
) -> None:
    """The pixels equal those of the plain image, or nearly so for lossy formats."""
    write, tolerance = STORED[name]
    write(tmp_path / "unusual.png")
    _plain().save(tmp_path / "plain.png")
    rows = [as_line(row_with(id=row_id, images=[f"{row_id}.png"])) for row_id in ("unusual", "plain")]
    data = read_data(local(write_lines(tmp_path, [*rows, *good])), small_encoder, max_lost=0)
    unusual, plain = (used_groups(data)[row_id] for row_id in ("unusual", "plain"))
    assert plain.pixels is not None
    assert unusual.pixels is not None
    torch.testing.assert_close(unusual.images_thw, plain.images_thw)
    torch.testing.assert_close(unusual.pixels.values, plain.pixels.values, rtol=0, atol=tolerance)
    other_pixels = used_groups(data)["row-1"].pixels
    assert other_pixels is not None
    assert (other_pixels.values - plain.pixels.values).abs().max() > 1


def test_image_of_one_pixel_is_used(small_encoder: Encoder, good: list[bytes], tmp_path: Path) -> None:
    """It becomes the smallest grid of the image processor, in one colour."""
    PIL.Image.new("RGB", (1, 1), "white").save(tmp_path / "dot.png")
    data = read_data(
        local(write_lines(tmp_path, [*good, as_line(row_with(images=["dot.png"]))])), small_encoder, max_lost=0
    )
    pixels = used_groups(data)["bad"].pixels
    assert pixels is not None
    assert len(pixels.values.unique()) == 3  # one value per channel


FILES: dict[str, Callable[[list[bytes]], bytes]] = {
    "a byte-order mark": lambda good: b"\xef\xbb\xbf" + b"\n".join(good),
    "Windows line ends": lambda good: b"\r\n".join(good) + b"\r\n",
    "blank lines": lambda good: b"\n \n\t\r\n" + b"\n\n\n".join(good) + b"\n\n",
    "no line end at the end": b"\n".join,
    "a line of twenty megabytes": lambda good: b"\n".join(
        [good[0][:-1] + b', "notes": "' + b"x" * 20_000_000 + b'"}', *good[1:]]
    ),
    "columns of others and nulls": lambda good: b"\n".join(
        line[:-1] + b', "ranking": null, "margin": null, "source": {"deep": [1]}}' for line in good
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_unusual_file_is_read_whole(name: str, small_encoder: Encoder, good: list[bytes], tmp_path: Path) -> None:
    """Every row is used."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FILES[name](good))
    data = read_data(local(path), small_encoder, max_lost=0)
    assert data.rejected == []
    assert list(used_groups(data)) == GOOD_IDS


def test_ids_can_be_numbers_and_equal(small_encoder: Encoder, good: list[bytes], tmp_path: Path) -> None:
    """Two rows with the same id are two groups."""
    rows = [as_line(row_with(id=7)), as_line(row_with(id="7", chosen="the digit seven"))]
    data = read_data(local(write_lines(tmp_path, [*good, *rows])), small_encoder, max_lost=0)
    part = data.parts["train"]
    assert [part[place].id for place in part.places] == [*GOOD_IDS, "7", "7"]
