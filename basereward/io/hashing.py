"""Hashes of whole files. The hash of a large file is remembered by its path, size and time, in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from basereward.io.cache import cache_folder
from basereward.io.files import write_atomic

CACHED_FROM = 2**20
"""Bytes from which a hash is remembered. Reading a smaller file again is as fast as looking its hash up."""


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits.

    The hash of a file of 1 MiB or more is kept in `$BASEREWARD_CACHE/hashes` with the file's real path, size,
    modification time and inode. It is used again only while all four are the same.

    Raises:
        OSError: the file cannot be read.
    """
    real = Path(path).resolve(strict=True)
    status = real.stat()
    if status.st_size < CACHED_FROM:
        return hashlib.sha256(real.read_bytes()).hexdigest()
    mark = [str(real), status.st_size, status.st_mtime_ns, status.st_ino]
    kept = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(kept.read_text())
        if entry["file"] == mark:
            return str(entry["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that is written while it is read has another time afterwards; its hash is of neither state.
    after = real.stat()
    if [after.st_size, after.st_mtime_ns] == mark[1:3]:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the call
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, json.dumps({"file": mark, "sha256": digest}) + "\n")
    return digest


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 over named hashes or values; the order of the parts does not matter.

    >>> combined_sha256([("a", "1"), ("b", "2")]) == combined_sha256([("b", "2"), ("a", "1")])
    True
    """
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()
