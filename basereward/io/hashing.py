"""SHA-256 of whole files and folders. Hashes that take long are cached by paths, sizes and modification times."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from basereward.io.files import cache_folder, files_below, write_state
from basereward.io.limits import read_json

CACHED_FROM = 2**20
"""Bytes from which a hash is cached. Reading a smaller file again is as fast as reading its cached hash."""


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits; `file_digest` says when it is cached.

    Raises:
        OSError: the file cannot be read.

    >>> file_sha256("/dev/null")[:8]  # of no bytes
    'e3b0c442'
    """
    return file_digest(path, "sha256")


def file_digest(path: Path | str, algorithm: str) -> str:
    """The hash of a file's content, in hexadecimal digits.

    The hash of a file of 1 MiB or more is kept in `$BASEREWARD_CACHE/hashes` with the file's real path, size,
    modification time and inode. It is used again only while all four are the same.

    Args:
        path: of the file.
        algorithm: its name in `hashlib`.

    Raises:
        OSError: the file cannot be read.

    >>> file_digest("/dev/null", "blake2b")[:8]  # of no bytes
    '786a02f7'
    """
    real = Path(path).resolve(strict=True)
    status = real.stat()
    if status.st_size < CACHED_FROM:
        return hashlib.new(algorithm, real.read_bytes()).hexdigest()
    identity: list[str | int] = [str(real), status.st_size, status.st_mtime_ns, status.st_ino]
    known = _cached(real, identity, algorithm)
    if known is not None:
        return known
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    # A file that was written while it was read has another time now, and the hash belongs to neither of its states.
    after = real.stat()
    # Otherwise the hash would be found again for content that it is not of.
    if [after.st_size, after.st_mtime_ns] == identity[1:3]:
        _cache(real, identity, digest, algorithm)
    return digest


def folder_sha256(folder: Path | str) -> str:
    """The SHA-256 of the names and contents of all files below a folder, as 64 hexadecimal digits.

    Links to files and folders are followed. The hash is kept in the cache with the size, modification time and inode of
    every file.

    Raises:
        DataError: a link leads to a folder that contains it.
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
    for file in files_below(folder):
        status = file.stat()
        states.append((str(file.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return states


def _cache_file(real: Path, algorithm: str) -> Path:
    # The name of SHA-256 is that of earlier versions, whose hashes stay in use.
    name = os.fsencode(real) + (b"" if algorithm == "sha256" else f"\0{algorithm}".encode())
    return cache_folder() / "hashes" / f"{hashlib.sha256(name).hexdigest()[:32]}.json"


def _cached(real: Path, identity: Sequence[str | int], algorithm: str = "sha256") -> str | None:
    """The cached hash of a file or folder; None if it has another identity now."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = read_json(_cache_file(real, algorithm))
        if entry["file"] == identity:
            return str(entry[algorithm])
    return None


def _cache(real: Path, identity: Sequence[str | int], digest: str, algorithm: str = "sha256") -> None:
    # Without a writable cache the next call takes longer; this one need not fail.
    with contextlib.suppress(OSError):
        cached = _cache_file(real, algorithm)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_state(cached, json.dumps({"file": identity, algorithm: digest}) + "\n")


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of several named hashes or values, in any order.

    Args:
        parts: pairs of a name and a hash or value.

    >>> combined_sha256([("a", "1"), ("b", "2")]) == combined_sha256([("b", "2"), ("a", "1")])
    True
    """
    return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()
