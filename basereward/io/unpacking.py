"""Compressed files: unpacked once into the cache, up to a limit, so that any of their rows can be read."""

from __future__ import annotations

import atexit
import contextlib
import gzip
import hashlib
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from basereward.errors import DataError
from basereward.io.cache import cache_folder
from basereward.io.formats import compression
from basereward.io.limits import MIB, check_regular_file

PIECE = MIB
MAX_GROWTH = 100
"""How many times larger than itself a file may become. Text with many repetitions grows about thirty times; gzip can
grow a thousand times."""
ALWAYS_ALLOWED = 64 * MIB
"""Bytes that a file may become whatever its own size is."""


def growth_limit(size: int) -> int:
    """The most bytes that a compressed file of so many may become.

    >>> growth_limit(1000) // MIB, growth_limit(10 * MIB) // MIB
    (64, 1000)
    """
    return max(ALWAYS_ALLOWED, MAX_GROWTH * size)


def unpacked(path: Path | str) -> Path:
    """An unpacked copy of a `.gz` or `.zst` file in `$BASEREWARD_CACHE/unpacked`.

    It is made once for each path, size and modification time. Where the cache cannot be written it is made in the
    system's folder of temporary files, and removed when the process ends.

    Raises:
        DataError: the file cannot be read, is damaged, becomes larger than `growth_limit` allows, or nothing that is
            installed can unpack it.
    """
    real = Path(path).resolve()
    check_regular_file(path)
    status = real.stat()
    mark = repr((str(real), status.st_size, status.st_mtime_ns, status.st_ino))
    kept = cache_folder() / "unpacked" / hashlib.sha256(os.fsencode(mark)).hexdigest()[:32]
    if kept.is_file():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(kept.parent, os.W_OK)
    except OSError:
        writable = False
    target = kept if writable else _temporary_folder(os.getpid()) / kept.name
    if not target.is_file():
        _unpack(path, target, limit=growth_limit(status.st_size))
    return target


@lru_cache(maxsize=1)
def _temporary_folder(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="basereward-unpacked-"))

    def remove() -> None:  # by the process that made it alone: its children inherit this function
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _unpack(path: Path | str, target: Path, *, limit: int) -> None:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    written = 0
    try:
        with partial.open("xb") as out, contextlib.closing(_pieces(path)) as pieces:
            for piece in pieces:
                written += len(piece)
                if written > limit:
                    raise DataError(
                        f"'{path}' becomes larger than {limit:,} bytes when it is unpacked, more than {MAX_GROWTH} "
                        "times its own size; if that is right, unpack it yourself and give the unpacked file"
                    )
                out.write(piece)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _pieces(path: Path | str) -> Generator[bytes, None, None]:
    """Raises: DataError, where the file is damaged; OSError, as of a full disk, passes."""
    with _opened(path) as file:
        while True:
            try:
                piece = file.read(PIECE)
            except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"'{path}' is damaged and cannot be unpacked: {error}") from error
            if not piece:
                return
            yield piece


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[BinaryIO]:
    if compression(path) == ".gz":
        with gzip.open(path, "rb") as file:
            yield file  # type: ignore[misc]  # a BinaryIO in all that is used here
        return
    try:
        import zstandard  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise DataError(
            f"'{path}' is compressed with zstd, for which the package `zstandard` is needed: install it, or unpack the "
            f"file (`zstd -d {Path(path).name}`) and give the unpacked one"
        ) from error
    with Path(path).open("rb") as raw, zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw) as file:
        yield file
