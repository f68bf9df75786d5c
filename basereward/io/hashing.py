"""SHA-256 of whole files and folders. Hashes that take long are cached by paths, sizes and modification times."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
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
    identity: list[str | int] = [str(real), status.st_size, status.st_mtime_ns, status.st_ino]
    known = _cached(real, identity)
    if known is not None:
        return known
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that was written while it was read has another time now, and the hash belongs to neither of its states.
    after = real.stat()
    # Otherwise the hash would be found again for content that it is not of.
    if [after.st_size, after.st_mtime_ns] == identity[1:3]:
        _cache(real, identity, digest)
    return digest


def folder_sha256(folder: Path | str) -> str:
    """The SHA-256 of the names and contents of all files below a folder, as 64 hexadecimal digits.

    It is kept in the cache with the size, modification time and inode of every file.

    Raises:
        OSError: a file cannot be read.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> before = folder_sha256(folder)
    >>> (folder / "a").touch()
    >>> folder_sha256(folder) == before
    False
    """
    real = Path(folder).resolve(strict=True)
    states = _states(real)
    identity = [f"{real}{os.sep}", hashlib.sha256(repr(states).encode("utf-8", "surrogatepass")).hexdigest()]
    known = _cached(real, identity)
    if known is not None:
        return known
    digest = combined_sha256((name, file_sha256(real / name)) for name, *_ in states)
    if _states(real) == states:
        _cache(real, identity, digest)
    return digest


def _states(folder: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, modification time and inode of every file below a folder."""
    states: list[tuple[str, int, int, int]] = []
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            status = file.stat()
            states.append((str(file.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return states


def _cache_file(real: Path) -> Path:
    return cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def _cached(real: Path, identity: Sequence[str | int]) -> str | None:
    """The cached hash of a file or folder; None if it has another identity now."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = read_json(_cache_file(real))
        if entry["file"] == identity:
            return str(entry["sha256"])
    return None


def _cache(real: Path, identity: Sequence[str | int], digest: str) -> None:
    # Without a writable cache the next call takes longer; this one need not fail.
    with contextlib.suppress(OSError):
        cached = _cache_file(real)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_state(cached, json.dumps({"file": identity, "sha256": digest}) + "\n")


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of several named hashes or values, in any order.

    Args:
        parts: pairs of a name and a hash or value.

    >>> combined_sha256([("a", "1"), ("b", "2")]) == combined_sha256([("b", "2"), ("a", "1")])
    True
    """
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()
