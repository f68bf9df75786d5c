"""Copies of an image have similar hashes, other images do not, and unreadable images have none."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import PIL.Image
import pytest

from basereward.data.curation.image_hashes import ImageHashes, hamming_distance, perceptual_hash
from basereward.data.images.open_images import open_image


def _jpeg(picture: PIL.Image.Image, *, quality: int) -> bytes:
    """Return the image as JPEG bytes."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_resized_and_recompressed_copies_are_within_2_bits(photos: list[Path]) -> None:
    """44 images, each reduced to a third, resized to a square, and saved as JPEG of low quality."""
    for path in photos:
        image = open_image(path)
        original_hash = perceptual_hash(image)
        reduced = image.resize((image.width // 3, image.height // 3))
        square = image.resize((224, 224))
        recompressed = open_image(_jpeg(reduced, quality=40))
        assert original_hash is not None
        for copy in (reduced, square, recompressed):
            assert hamming_distance(original_hash, perceptual_hash(copy) or 0) <= 2


def test_other_scenes_are_far_apart(photos: list[Path]) -> None:
    """Images of different scenes differ in more than the 4 bits that count as a copy.

    Generated images of one scene with different people do not: they have the same background.
    """
    hashes = [(path.parent if path.suffix == ".png" else path, perceptual_hash(open_image(path))) for path in photos]
    distances = [hamming_distance(a or 0, b or 0) for (x, a), (y, b) in itertools.combinations(hashes, 2) if x != y]
    assert min(distances) > 8


def test_an_image_of_one_colour_has_no_perceptual_hash() -> None:
    """Otherwise all such images would be copies of each other."""
    assert perceptual_hash(PIL.Image.new("RGB", (64, 48), "navy")) is None


def test_the_content_hash_is_that_of_the_file(tmp_path: Path) -> None:
    """Equal bytes under two names and in memory have equal hashes; another JPEG quality has a different one."""
    picture = PIL.Image.linear_gradient("L")
    data = _jpeg(picture, quality=90)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(data)
    hashes = ImageHashes()
    assert hashes.content(tmp_path / "a.jpg") == hashes.content(str(tmp_path / "b.jpg")) == hashes.content(data)
    assert hashes.content(data) != hashes.content(_jpeg(picture, quality=50))
    assert hashes.content(picture) == hashes.content(picture.copy()) != hashes.content(picture.rotate(90))


@pytest.mark.parametrize(
    "image", ["nowhere.png", b"", Path("a\0b"), Path("/")], ids=["missing", "empty", "null", "folder"]
)
def test_an_unreadable_image_has_no_content_hash(image: str | bytes | Path) -> None:
    """Such images are identified by their names."""
    assert ImageHashes().content(image) is None
    assert ImageHashes().fingerprint(image) is None
    assert ImageHashes().identity("x.png") == ImageHashes().identity(Path("x.png")) != ImageHashes().identity("y.png")


def test_a_file_that_is_not_an_image_has_only_a_content_hash() -> None:
    """It equals its copy, and is marked as unreadable."""
    fingerprint = ImageHashes().fingerprint(b"not a picture")
    assert fingerprint is not None
    assert (fingerprint.perceptual, fingerprint.readable) == (None, False)
    assert fingerprint.content == ImageHashes().content(b"not a picture")


def test_the_cache_is_limited_to_its_size(tmp_path: Path) -> None:
    """A file in the cache is not read again; a file that was removed from the cache is."""
    hashes = ImageHashes(remember=1)
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = hashes.content(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"3")
    assert hashes.content(tmp_path / "a") == first
    hashes.content(tmp_path / "b")
    assert hashes.content(tmp_path / "a") != first
