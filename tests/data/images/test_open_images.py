"""Image files of many kinds open as upright 8-bit RGB, or raise `ImageError` with a reason."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from basereward.data.images.open_images import FORMATS, MAX_PIXELS, ImageError, open_image

RED, BLUE, WHITE, HALF_RED = (255, 0, 0), (0, 0, 255), (255, 255, 255), (255, 127, 127)


def _encode(image: PIL.Image.Image, file_format: str, **options: object) -> bytes:
    """Return the image as bytes of a file format."""
    file = io.BytesIO()
    image.save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _two_halves(mode: str = "RGB") -> PIL.Image.Image:
    """Return an image of 4 x 2 pixels, red on the left, blue on the right."""
    image = PIL.Image.new("RGB", (4, 2), RED)
    image.paste(BLUE, (2, 0, 4, 2))
    return image.convert(mode)


def _png(width: int, height: int) -> bytes:
    """Return a valid black 1-bit PNG without storing its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    deflate = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _error_of(image: object) -> tuple[str, str]:
    """Return reason and detail of the error."""
    with pytest.raises(ImageError) as caught:
        open_image(image)  # type: ignore[arg-type]
    return caught.value.reason, caught.value.detail


def test_path_bytes_and_decoded_image_are_equal(tmp_path: Path) -> None:
    """A str, a Path, bytes and a PIL image have the same pixels."""
    content = _encode(_two_halves(), "PNG")
    path = tmp_path / "halves.png"
    path.write_bytes(content)
    opened = [open_image(image) for image in (path, str(path), content, _two_halves())]
    for image in opened:
        assert image.mode == "RGB"
        assert image.tobytes() == _two_halves().tobytes()


@pytest.mark.parametrize(
    ("orientation", "size", "upper_left", "lower_right"),
    [(1, (4, 2), RED, BLUE), (3, (4, 2), BLUE, RED), (6, (2, 4), RED, BLUE), (8, (2, 4), BLUE, RED)],
)
def test_exif_orientation_is_applied(
    orientation: int, size: tuple[int, int], upper_left: tuple[int, ...], lower_right: tuple[int, ...]
) -> None:
    """By the EXIF standard, 3 is a half turn, 6 and 8 are quarter turns."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = open_image(_encode(_two_halves(), "PNG", exif=exif))
    assert image.size == size
    assert image.getpixel((0, 0)) == upper_left
    assert image.getpixel((size[0] - 1, size[1] - 1)) == lower_right


def test_cmyk_becomes_rgb() -> None:
    """Red and blue of a CMYK JPEG are within JPEG's error."""
    image = open_image(_encode(_two_halves("CMYK").resize((64, 32), 0), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.array(image.getpixel((5, 16))) - RED).max() < 12
    assert np.abs(np.array(image.getpixel((60, 16))) - BLUE).max() < 12


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    """0, 257, 32896 (half) and 65535 of 16 bits are 0, 1, 128 and 255 of 8."""
    shades = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = open_image(_encode(PIL.Image.fromarray(shades), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]
    pgm = b"P5 4 1 65535\n" + shades.astype(">u2").tobytes()
    assert open_image(pgm).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_pixels_become_white(mode: str) -> None:
    """Not the black that is stored in them."""
    if mode == "PA":
        image = PIL.Image.new("PA", (2, 1), (0, 0))
        image.putpixel((1, 0), (0, 255))
    else:
        image = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 255))
        image = image.convert("LA") if mode == "La" else image  # Pillow has no direct way
    opened = open_image(image.convert(mode))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [WHITE, (0, 0, 0)]


def test_half_transparent_red_becomes_pink() -> None:
    """Blended with white: 255 - 128 = 127 in green and blue."""
    assert open_image(_encode(PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG")).getpixel((0, 0)) == HALF_RED


def test_transparent_palette_colour_becomes_white() -> None:
    """PNG's tRNS chunk, for palettes and for grey."""
    palette = PIL.Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    assert open_image(_encode(palette, "PNG", transparency=0)).getpixel((0, 0)) == WHITE
    assert open_image(_encode(PIL.Image.new("L", (1, 1), 9), "PNG", transparency=9)).getpixel((0, 0)) == WHITE


def test_first_frame_of_an_animation_is_used() -> None:
    """A GIF of a red and a blue frame is red."""
    frames = [PIL.Image.new("RGB", (3, 3), colour) for colour in (RED, BLUE)]
    image = open_image(_encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (image.size, image.getpixel((1, 1))) == ((3, 3), RED)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_opens(kind: str) -> None:
    """One white pixel is white, up to the loss of the format."""
    image = open_image(_encode(PIL.Image.new("RGB", (1, 1), WHITE), kind))
    assert (image.size, image.mode) == ((1, 1), "RGB")
    assert min(image.getpixel((0, 0))) > 250  # type: ignore[type-var, arg-type]


def test_empty_file_is_unreadable(tmp_path: Path) -> None:
    """As a file and as bytes; the message says that it is empty."""
    path = tmp_path / "empty.png"
    path.touch()
    assert _error_of(path) == ("image_unreadable", f"{path} is empty (0 bytes)")
    assert _error_of(b"")[0] == "image_unreadable"


def test_missing_file_and_other_paths_have_their_reason(tmp_path: Path) -> None:
    """A folder, an invalid name and a pipe, which is not opened, are unreadable. The message has the path."""
    assert _error_of(tmp_path / "no.png") == ("image_missing", f"there is no file {tmp_path / 'no.png'}")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png", tmp_path / ("n" * 300), tmp_path / "zero\0.png"):
        reason, detail = _error_of(path)
        assert reason == "image_unreadable"
        assert str(path).split("\0")[0] in detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_truncated_image_is_unreadable(kind: str) -> None:
    """Truncated anywhere, it does not open as an image with a grey rest."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    content = _encode(PIL.Image.fromarray(noise), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        assert _error_of(content[: int(len(content) * share)])[0] == "image_unreadable"


def test_other_content_is_unreadable() -> None:
    """Text, arbitrary bytes, and PostScript, which would run an interpreter; the message lists the supported
    formats."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for content in (b"<html>404</html>", bytes(range(256)) * 4, postscript):
        reason, detail = _error_of(content)
        assert reason == "image_unreadable"
        assert "PNG, JPEG" in detail


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about damaged files
def test_damaged_image_opens_or_raises_image_error() -> None:
    """Two hundred images with random bytes overwritten."""
    rng = np.random.default_rng(1)
    noise = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    contents = [_encode(noise, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")]
    outcomes = set()
    for i in range(200):
        content = np.frombuffer(contents[i % 5], dtype=np.uint8).copy()
        content[rng.integers(0, len(content), 8)] = rng.integers(0, 256, 8)
        try:
            outcomes.add(open_image(content.tobytes()).mode)
        except ImageError as error:
            outcomes.add(error.reason)
    assert {"RGB", "image_unreadable"} <= outcomes <= {"RGB", "image_unreadable", "image_too_large"}


def test_too_many_pixels_are_rejected_by_the_header(tmp_path: Path) -> None:
    """20,000 x 20,000 pixels are 50 kB that decode to 1.2 GB; the file need not be complete."""
    content = _png(20_000, 20_000)
    assert len(content) < 100_000
    path = tmp_path / "huge.png"
    path.write_bytes(content)
    for image in (path, content[:60]):
        reason, detail = _error_of(image)
        assert reason == "image_too_large"
        assert "400000000 pixels" in detail
        assert "100,000,000" in detail
    assert str(path) in _error_of(path)[1]


def test_pixel_limit_is_exact() -> None:
    """10,000 x 10,000 pixels are allowed, one row more is rejected by its header."""
    assert MAX_PIXELS == 10_000 * 10_000
    reason, detail = _error_of(_png(10_000, 10_001)[:60])
    assert reason == "image_too_large"
    assert "10000 x 10001 = 100,010,000 pixels" in detail
    assert _error_of(_png(10_000, 10_000)[:60])[0] == "image_unreadable"  # within the limit, but truncated


def test_decoded_image_without_pixels_or_range_is_unreadable() -> None:
    """An image of width zero, and floating-point samples."""
    assert _error_of(PIL.Image.new("RGB", (0, 3)))[0] == "image_unreadable"
    assert "no known range" in _error_of(PIL.Image.new("F", (2, 2)))[1]


def test_given_image_is_copied() -> None:
    """Changing the result does not change the given image."""
    image = _two_halves()
    open_image(image).putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == _two_halves().tobytes()


def test_image_error_can_be_pickled() -> None:
    """Loader processes pass it on with its reason; its text is the detail."""
    error = pickle.loads(pickle.dumps(ImageError("image_missing", "there is no file x")))  # noqa: S301
    assert (error.reason, error.detail, str(error)) == (
        "image_missing", "there is no file x", "there is no file x"
    )  # fmt: skip


def test_long_path_is_shortened_in_the_message() -> None:
    """A broken base64 image may be taken for a path."""
    reason, detail = _error_of(Path("n" * 2**20))
    assert reason == "image_unreadable"
    assert len(detail) < 2000
