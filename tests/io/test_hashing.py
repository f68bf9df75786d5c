"""The hash of a file, with and without the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from basereward.io.hashing import CACHED_FROM, file_sha256


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
