"""The hash of a file, with and without the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.io.hashing import CACHED_FROM, file_digest, file_sha256, folder_sha256


def test_one_changed_byte_changes_the_hash(tmp_path: Path) -> None:
    """The size is the same; the modification time invalidates the cached hash."""
    path = tmp_path / "model.safetensors"
    content = bytearray(os.urandom(CACHED_FROM + 7))
    path.write_bytes(content)
    first = file_sha256(path)
    assert first == hashlib.sha256(content).hexdigest() == file_sha256(path)
    content[CACHED_FROM // 2] ^= 1
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest() != first


def test_broken_cache_entry_is_ignored(tmp_path: Path) -> None:
    """The hash is computed again from the file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * CACHED_FROM)
    digest = file_sha256(path)
    for entry in (Path(os.environ["BASEREWARD_CACHE"]) / "hashes").iterdir():
        entry.write_text("[1, 2")
    assert file_sha256(path) == digest


def test_folder_of_links_is_hashed_as_its_files(tmp_path: Path) -> None:
    """Links to files, and files in a linked folder, as in the cache of the hub; a change behind a link changes it."""
    blobs, plain, linked = tmp_path / "blobs", tmp_path / "plain", tmp_path / "linked"
    for folder in (blobs / "backbone", plain / "backbone", linked):
        folder.mkdir(parents=True)
    for root in (blobs, plain):
        (root / "model.safetensors").write_bytes(b"weights")
        (root / "backbone" / "config.json").write_bytes(b"{}")
    (linked / "model.safetensors").symlink_to(blobs / "model.safetensors")
    (linked / "backbone").symlink_to(blobs / "backbone")
    before = folder_sha256(linked)
    assert before == folder_sha256(plain)
    (blobs / "backbone" / "config.json").write_bytes(b"{ }")
    assert folder_sha256(linked) != before


def test_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    """The list of files would have no end."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "again").symlink_to(tmp_path)
    with pytest.raises(DataError, match="again"):
        folder_sha256(tmp_path)


def test_two_hashes_of_a_file_are_cached_apart(tmp_path: Path) -> None:
    """SHA-256 and BLAKE2, each from the file and then from the cache."""
    path = tmp_path / "a.mp4"
    content = os.urandom(CACHED_FROM + 7)
    path.write_bytes(content)
    for _ in range(2):
        assert file_digest(path, "blake2b") == hashlib.blake2b(content).hexdigest()
        assert file_digest(path, "sha256") == hashlib.sha256(content).hexdigest()
