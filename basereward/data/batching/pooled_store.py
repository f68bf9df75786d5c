"""Pooled states on the disk, for every epoch, run and cell that reads the same groups with the same frozen backbone.

pooled/ab/abc...    the states of some groups that were computed one after the other, by the hash of all they depend on
pooled/turn         locked by the one process that writes

A file is there whole or not at all, and does not change; its numbers are read from the disk when they are needed.
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
    """Of R responses, group after group."""

    lengths: NDArray[np.int64]  # (R,): tokens of every response, its end of turn left out
    states: NDArray[np.float32]  # (R, D)


class PooledStore:
    """The pooled states of one backbone behind one encoder, among those of others.

    Args:
        folder: of all of them.
        setting: tells everything apart, besides the groups themselves, that their states depend on.
    """

    def __init__(self, folder: Path, *, setting: str) -> None:
        self.folder = folder
        self.setting = setting
        self._closed = False  # whether nothing more can be written
        self._cleared = False  # whether what killed writers left behind was removed

    def key(self, passes: Iterable[Iterable[bytes]]) -> str:
        """The name of the states of groups that are computed together.

        Args:
            passes: the content of every group, by forward pass: in other company a state has other last bits.
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
        """What was kept; None where there is nothing, or nothing whole."""
        file = self.file(key)
        try:
            return read(file, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("the pooled states kept in %s cannot be read (%s) and are computed anew", file, error)
            return None

    def keep(self, key: str, states: PooledStates) -> PooledStates:
        """The same states from the disk, where they take no memory. A disk that takes nothing costs memory and time,
        not the run."""
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
    """The content of a file: `key` has 64 hexadecimal digits."""
    numbers = states.lengths.astype("<i8").tobytes() + states.states.astype("<f4").tobytes()
    header = _HEADER.pack(MAGIC, bytes.fromhex(key), *states.states.shape)
    return header + _CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header))) + numbers


def read(file: Path, key: str) -> PooledStates:
    """What `pack` made for the key.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is cut, changed or another's.
    """
    with file.open("rb") as opened:
        # Copied on writing: torch takes no array of constants.
        content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY))
    if len(content) < _START:
        raise ValueError("it is cut")
    magic, owner, responses, width = _HEADER.unpack_from(content)
    (checksum,) = _CHECKSUM.unpack_from(content, _HEADER.size)
    if magic != MAGIC or owner != bytes.fromhex(key) or len(content) != _START + responses * (8 + 4 * width):
        raise ValueError("it is cut, or holds something else")
    if zlib.crc32(content[_START:], zlib.crc32(content[: _HEADER.size])) != checksum:
        raise ValueError("it was changed")
    states = np.frombuffer(content, "<f4", offset=_START + 8 * responses)
    return PooledStates(np.frombuffer(content, "<i8", responses, _START), states.reshape(responses, width))
