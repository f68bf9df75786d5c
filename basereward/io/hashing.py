"""SHA-256 of whole files. The hash of a large file is cached by its path, size and modification time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from basereward.io.files import cache_folder, write_state
from basereward.io.limits import read_json

CACHED_FROM = 2**20
"""Bytes from which a hash is cached. Reading a smaller file again is as fast as reading its cached hash."""


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits.

    The hash of a file of 1 MiB or more is kept in `$BASEREWARD_CACHE/hashes` with the file's real path, size,
    modification time and inode. It is used again only while all four are the same.

    Raises:
        OSError: the file cannot be read.

    >>> file_sha256("/dev/null")[:8]  # of no bytes
    'e3b0c442'
    """
    real = Path(path).resolve(strict=True)
    status = real.stat()
    if status.st_size < CACHED_FROM:
        return hashlib.sha256(real.read_bytes()).hexdigest()
    identity = [str(real), status.st_size, status.st_mtime_ns, status.st_ino]
    cached = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = read_json(cached)
        if entry["file"] == identity:
            return str(entry["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that was written while it was read has another time now, and the hash belongs to neither of its states.
    after = real.stat()
    # Otherwise the hash would be found again for content that it is not of.
    if [after.st_size, after.st_mtime_ns] == identity[1:3]:
        # Without a writable cache the next call takes longer; this one need not fail.
        with contextlib.suppress(OSError):
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_state(cached, json.dumps({"file": identity, "sha256": digest}) + "\n")
    return digest


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of several named hashes or values, in any order.

    Args:
        parts: pairs of a name and a hash or value.

    >>> combined_sha256([("a", "1"), ("b", "2")]) == combined_sha256([("b", "2"), ("a", "1")])
    True
    """
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()
