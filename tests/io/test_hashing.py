"""The hash of a file is that of its whole content, also when it is remembered."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from basereward.io.hashing import CACHED_FROM, file_sha256


def test_one_changed_byte_in_a_large_file_changes_the_hash(tmp_path: Path) -> None:
    """Size stays; the time of the change is enough for the remembered hash not to be used."""
    path = tmp_path / "model.safetensors"
    content = bytearray(os.urandom(CACHED_FROM + 7))
    path.write_bytes(content)
    first = file_sha256(path)
    assert first == hashlib.sha256(content).hexdigest() == file_sha256(path)
    content[CACHED_FROM // 2] ^= 1
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest() != first


def test_a_broken_memory_is_not_used(tmp_path: Path) -> None:
    """The hash is computed again from the file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * CACHED_FROM)
    digest = file_sha256(path)
    for kept in (Path(os.environ["BASEREWARD_CACHE"]) / "hashes").iterdir():
        kept.write_text("[1, 2")
    assert file_sha256(path) == digest
