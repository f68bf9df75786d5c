"""A cache of pooled states on disk, shared by all epochs, runs and cells with the same groups and frozen backbone.

pooled/ab/abc...    the states of groups that were computed together, named by a hash of everything they depend on
pooled/turn         the lock file of writers

A file is written atomically and never changes. It is memory-mapped, so that its states are read from disk when needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from basereward.io.lease import acquire

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAGIC = b"brpool01"
_HEADER = struct.Struct("<8s32s2Q")  # magic, key, R and D
_CHECKSUM = struct.Struct("<Q")  # of the header and all numbers, between the two
_START = _HEADER.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True)
class PooledStates:
    """The pooled states of R responses, group after group."""

    lengths: NDArray[np.int64]  # (R,): tokens of each response without its end-of-turn token
    states: NDArray[np.float32]  # (R, D)


class PooledStore:
    """The pooled states of one backbone and encoder, in a folder shared with others.

    Args:
        folder: the folder of the cache.
        setting: identifies everything that the states depend on, apart from the groups.
    """

    def __init__(self, folder: Path, *, setting: str) -> None:
        self.folder = folder
        self.setting = setting
        self._closed = False  # set after a failed write
        self._cleared = False  # whether partial files of killed writers have been removed

    def key(self, passes: Iterable[Iterable[bytes]]) -> str:
        """Compute the name of the states of groups that are computed together.

        Args:
            passes: the content hashes of the groups by forward pass. They are part of the name, because the last bits
                of a state depend on the other groups of its forward pass.
        """
        digest = hashlib.sha256(self.setting.encode())
        for contents in passes:
            digest.update(b"pass")
            for content in contents:
                digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def file(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def find(self, key: str) -> PooledStates | None:
        """Read cached states; None if there are none or the file is damaged."""
        file = self.file(key)
        try:
            return read(file, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the pooled states kept in %s cannot be read (%s) and are computed anew", file, error)
            return None

    def keep(self, key: str, states: PooledStates) -> PooledStates:
        """Write states and return them memory-mapped. If writing fails, they stay in memory and the run continues."""
        if self._closed:
            return states
        file = self.file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with self._turn():
                part = file.with_name(f"{key}.part")
                part.write_bytes(pack(key, states))
                os.replace(part, file)
            return read(file, key)
        except (OSError, ValueError) as error:
            self._closed = True
            logger.warning("pooled states cannot be kept in %s (%s); further ones stay in memory", self.folder, error)
            return states

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The turn to write. What another writer left half written, it was killed at: its turn would not be over."""
        with acquire(self.folder / "turn", wait=True):
            for part in () if self._cleared else self.folder.glob("*/*.part"):
                part.unlink()
            self._cleared = True
            yield


def pack(key: str, states: PooledStates) -> bytes:
    """Serialize states to the content of a file; `key` has 64 hexadecimal digits."""
    numbers = states.lengths.astype("<i8").tobytes() + states.states.astype("<f4").tobytes()
    header = _HEADER.pack(MAGIC, bytes.fromhex(key), *states.states.shape)
    return header + _CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header))) + numbers


def read(file: Path, key: str) -> PooledStates:
    """Read a file of `pack`.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, damaged, or has another key.
    """
    with file.open("rb") as opened:
        # ACCESS_COPY makes the array writable, as torch requires, without changing the file.
        content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
    if len(content) < _START:
        raise ValueError("it is truncated")
    magic, owner, responses, width = _HEADER.unpack_from(content)
    (checksum,) = _CHECKSUM.unpack_from(content, _HEADER.size)
    if magic != MAGIC or owner != bytes.fromhex(key) or len(content) != _START + responses * (8 + 4 * width):
        raise ValueError("it is truncated or has other content")
    if zlib.crc32(content[_START:], zlib.crc32(content[: _HEADER.size])) != checksum:
        raise ValueError("its checksum is wrong")
    states = np.frombuffer(content, "<f4", offset=_START + 8 * responses)
    return PooledStates(np.frombuffer(content, "<i8", responses, _START), states.reshape(responses, width))
