"""Unpacks compressed files once into the cache, up to a size limit, so that their rows can be read in any order."""

from __future__ import annotations

import atexit
import contextlib
import gzip
import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from basereward.errors import DataError
from basereward.io.files import atomic_file, cache_folder, set_aside
from basereward.io.formats import compression
from basereward.io.limits import MIB, check_regular_file

# In bytes.
CHUNK_SIZE = MIB
MAX_GROWTH = 100
"""Largest ratio of the unpacked size to the packed one. Repetitive text grows about thirty times; a hostile gzip file
grows a thousand times."""
ALWAYS_ALLOWED = 64 * MIB
"""Bytes that any file may unpack to: the ratio of a very small file says nothing."""


def growth_limit(size: int) -> int:
    """The most bytes that a compressed file of `size` bytes may unpack to.

    >>> growth_limit(1000) // MIB, growth_limit(10 * MIB) // MIB
    (64, 1000)
    """
    return max(ALWAYS_ALLOWED, MAX_GROWTH * size)


def unpacked(path: Path | str) -> Path:
    """The path of an unpacked copy of a `.gz` or `.zst` file, in `$BASEREWARD_CACHE/unpacked`.

    The copy is made once for each path, size, modification time and inode. Where the cache cannot be written, it is
    made in the system's temporary folder, and removed when the process ends.

    Raises:
        DataError: the file cannot be read, is damaged, unpacks to more bytes than `growth_limit`, or needs a package
            that is not installed.

    >>> from unittest import mock
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    >>> with mock.patch.dict(os.environ, {"BASEREWARD_CACHE": str(folder)}):
    ...     unpacked(folder / "rows.jsonl.gz").read_bytes()
    b'{}'
    """
    real = Path(path).resolve()
    check_regular_file(path)
    status = real.stat()
    # The content is not hashed: to read a file of many gigabytes takes as long as to unpack it.
    identity = repr((str(real), status.st_size, status.st_mtime_ns, status.st_ino))
    cached = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
    if cached.is_file():
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(cached.parent, os.W_OK)
    except OSError:
        is_writable = False
    target = cached if is_writable else _temporary_folder(os.getpid()) / cached.name
    if not target.is_file():
        _unpack(path, target, limit=growth_limit(status.st_size))
    return target


@lru_cache(maxsize=1)
def _temporary_folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="basereward-unpacked-"))

    def remove() -> None:
        # Forked children inherit this function, and must not remove the folder of their parent.
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _unpack(path: Path | str, target: Path, *, limit: int) -> None:
    size = 0
    set_aside(target)
    with atomic_file(target) as out, contextlib.closing(_unpacked_chunks(path)) as chunks:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise DataError(
                    f"'{path}' becomes larger than {limit:,} bytes when it is unpacked, more than {MAX_GROWTH} "
                    "times its own size; if that is right, unpack it yourself and give the unpacked file"
                )
            out.write(chunk)


def _unpacked_chunks(path: Path | str) -> Generator[bytes, None, None]:
    """
    Raises:
        DataError: the file is damaged. An OSError, as of a full disk, is not changed.
    """
    with _open_unpacked(path) as file:
        while True:
            try:
                chunk = file.read(CHUNK_SIZE)
            except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"'{path}' is damaged and cannot be unpacked: {error}") from error
            if not chunk:
                return
            yield chunk


@contextlib.contextmanager
def _open_unpacked(path: Path | str) -> Iterator[BinaryIO]:
    if compression(path) == ".gz":
        with gzip.open(path, "rb") as file:
            yield file  # type: ignore[misc]  # a GzipFile has all methods of BinaryIO that are used here
        return
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise DataError(
            f"'{path}' is compressed with zstd, for which the package `zstandard` is needed: install it, or unpack the "
            f"file (`zstd -d {Path(path).name}`) and give the unpacked one"
        ) from error
    # The window is what the decompressor may allocate: 128 MiB, which `zstd --long` needs at its default.
    with Path(path).open("rb") as raw, zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw) as file:
        yield file
