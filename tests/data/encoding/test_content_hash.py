"""The content hash covers what a model reads of a group."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from basereward.data.encoding.content_hash import ENDS, encoded_content, group_content, image_file_content
from basereward.data.schema.group import ArchivedImage, Preference, Turn, Video
from basereward.io.hashing import CACHED_FROM
from tests.helpers.support import group, picture


def test_content_depends_on_what_is_encoded() -> None:
    """Other words, order, role or image change it; id, source, preferences, ratings and critiques do not."""
    sample = group(images=1)
    same_content = [
        replace(sample, id="other", source="other"),
        replace(sample, preferences=(Preference(2, 0, weight=3.0),)),
        replace(sample, ratings=(0.0, 0.5, 1.0), critiques=("a", "b", "c")),
        group(images=1),
    ]
    assert {encoded_content(sample_group) for sample_group in same_content} == {encoded_content(sample)}
    other_content = [
        replace(sample, responses=sample.responses[::-1]),
        replace(sample, responses=sample.responses[:2]),
        replace(sample, prompt=(Turn("system", sample.prompt[0].parts),)),
        replace(sample, images=(picture(5),)),
        group("Which digit is it?", images=1),
    ]
    assert len({encoded_content(sample_group) for sample_group in (sample, *other_content)}) == 6


def test_change_in_the_middle_of_a_video_file_changes_its_content(tmp_path: Path) -> None:
    """An AVI file begins with RIFF as WebP does, but its frames may be uncompressed."""
    contents = set()
    for level in (b"0", b"1"):
        file = tmp_path / f"{level.decode()}.avi"
        file.write_bytes(b"RIFF\0\0\0\0AVI " + bytes(2 * ENDS) + level + bytes(2 * ENDS))
        contents.add(group_content(replace(group(images=1), images=(Video(file=file),))))
    assert len(contents) == 2


@pytest.mark.parametrize("suffix", ["bmp", "png", "jpg", "tiff", "ppm"])
def test_change_in_the_middle_of_a_large_image_changes_its_content(suffix: str, tmp_path: Path) -> None:
    """One pixel in the middle of a file of more than the 64 KiB that are read of compressed formats."""
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    contents = set()
    for index in range(2):
        pixels[200, 200] = (0, 0, 200 * index)
        file = tmp_path / f"{index}.{suffix}"
        PIL.Image.fromarray(pixels).save(file)
        assert file.stat().st_size > 2 * ENDS
        contents.add(group_content(replace(group(images=1), images=(file,))))
    assert len(contents) == 2


@pytest.mark.parametrize("archived", [False, True], ids=["file", "zip"])
def test_large_video_is_read_in_blocks_and_once(
    archived: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows with one video file hash it once, never whole, and to the hash of its bytes."""
    content = os.urandom(CACHED_FROM + 7)
    file: Path | ArchivedImage = tmp_path / "a.mp4"
    if archived:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.mp4", content)
        file = ArchivedImage(str(tmp_path / "a.zip"), "a.mp4")
    else:
        (tmp_path / "a.mp4").write_bytes(content)
    calls: list[str] = []
    of_file = hashlib.file_digest

    def counted(opened: Any, algorithm: str) -> Any:
        calls.append(algorithm)
        return of_file(opened, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    assert image_file_content(file) == image_file_content(file) == hashlib.blake2b(content).digest()
    assert calls == ["blake2b"]
