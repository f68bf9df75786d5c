"""Copies of a picture are found by their hashes, other pictures are not, and what cannot be read is said."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import PIL.Image
import pytest

from basereward.data.curation.image_hashes import ImageHashes, hamming_distance, perceptual_hash
from basereward.data.images.open_images import open_image


def _jpeg(picture: PIL.Image.Image, *, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_resized_and_recompressed_copies_are_within_2_bits(photos: list[Path]) -> None:
    """Each of 44 pictures at a third of its size, squeezed into a square, and as poor JPEG."""
    for path in photos:
        picture = open_image(path)
        own = perceptual_hash(picture)
        small = picture.resize((picture.width // 3, picture.height // 3))
        square = picture.resize((224, 224))
        poor = open_image(_jpeg(small, quality=40))
        assert own is not None
        for copy in (small, square, poor):
            assert hamming_distance(own, perceptual_hash(copy) or 0) <= 2


def test_other_scenes_are_far_apart(photos: list[Path]) -> None:
    """Of two scenes no two pictures are within the 4 bits that are taken for a copy. (Of one scene with other people
    in it, as the 32 made pictures have, they are: the scene is the same.)"""
    hashes = [(path.parent if path.suffix == ".png" else path, perceptual_hash(open_image(path))) for path in photos]
    between = [hamming_distance(a or 0, b or 0) for (x, a), (y, b) in itertools.combinations(hashes, 2) if x != y]
    assert min(between) > 8


def test_a_picture_of_one_colour_has_no_perceptual_hash() -> None:
    """All of them would be copies of each other."""
    assert perceptual_hash(PIL.Image.new("RGB", (64, 48), "navy")) is None


def test_content_is_that_of_the_file(tmp_path: Path) -> None:
    """The same bytes under two names and in memory are the same; another quality is not."""
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
def test_what_is_not_there_has_no_content(image: str | bytes | Path) -> None:
    """And names tell such images apart."""
    assert ImageHashes().content(image) is None
    assert ImageHashes().fingerprint(image) is None
    assert ImageHashes().identity("x.png") == ImageHashes().identity(Path("x.png")) != ImageHashes().identity("y.png")


def test_a_file_that_is_no_picture_has_content_only() -> None:
    """It equals its copy, and was not looked at."""
    fingerprint = ImageHashes().fingerprint(b"not a picture")
    assert fingerprint is not None
    assert (fingerprint.perceptual, fingerprint.readable) == (None, False)
    assert fingerprint.content == ImageHashes().content(b"not a picture")


def test_only_so_many_are_remembered(tmp_path: Path) -> None:
    """A file that was forgotten is read anew, one that is remembered is not."""
    hashes = ImageHashes(remember=1)
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = hashes.content(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"3")
    assert hashes.content(tmp_path / "a") == first
    hashes.content(tmp_path / "b")
    assert hashes.content(tmp_path / "a") != first
