"""What a frozen vision tower makes of a picture, and the file that keeps it: a header and the numbers, read at once.

Shapes: S states of a token (the one that enters the language model, and those that are added in deeper layers), F
visual tokens, D numbers.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

MAGIC = b"brfeat01"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Magic, key, place in DTYPES, S, F and D, patches of the picture in time, height and width.
_HEADER = struct.Struct("<8s32sQ3Q3Q")
_CHECKSUM = struct.Struct("<Q")  # of the header and the numbers, between the two
_START = _HEADER.size + _CHECKSUM.size  # of the numbers

Grid = tuple[int, int, int]
"""Patches of a picture in time, height and width."""


@dataclass(frozen=True, slots=True)
class Features:
    """Of one picture, or of several one after the other."""

    states: Tensor  # (S, F, D)
    grids: tuple[Grid, ...]  # of each picture
    tokens: tuple[int, ...]  # of each picture; F in all

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        return replace(self, states=change(self.states))

    def split(self) -> list[Tensor]:
        """The states of every picture, `(S, its tokens, D)`."""
        return list(torch.split(self.states, list(self.tokens), dim=1))

    @staticmethod
    def joined(features: Sequence[Features]) -> Features:
        """One after the other; all of one tower."""
        return Features(
            torch.cat([each.states for each in features], dim=1),
            tuple(grid for each in features for grid in each.grids),
            tuple(tokens for each in features for tokens in each.tokens),
        )


def pack(key: str, features: Features) -> bytes:
    """The content of a file.

    Args:
        key: 64 hexadecimal digits.
        features: of one picture, on any device.
    """
    states = features.states.detach().cpu().contiguous()
    (grid,) = features.grids
    numbers = states.view(torch.uint8).numpy().tobytes()
    kind = DTYPES.index(states.dtype)
    header = _HEADER.pack(MAGIC, bytes.fromhex(key), kind, *states.shape, *grid)
    return header + _CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header))) + numbers


def read(file: Path, key: str) -> Features | None:
    """What `pack` made for the key; None where there is no such file, or one that is cut, changed or another's."""
    try:
        with file.open("rb") as opened:
            content = bytearray(os.fstat(opened.fileno()).st_size)
            whole = opened.readinto(content) == len(content)
    except OSError:
        return None
    if not whole or len(content) <= _START:
        return None
    magic, owner, kind, *rest = _HEADER.unpack_from(content)
    (checksum,) = _CHECKSUM.unpack_from(content, _HEADER.size)
    shape, (time, height, width) = rest[:3], rest[3:]
    if magic != MAGIC or owner != bytes.fromhex(key) or kind >= len(DTYPES):
        return None
    count = shape[0] * shape[1] * shape[2]
    view = memoryview(content)
    found = zlib.crc32(view[_START:], zlib.crc32(view[: _HEADER.size]))
    if count * DTYPES[kind].itemsize != len(content) - _START or found != checksum:
        return None
    states = torch.frombuffer(content, dtype=DTYPES[kind], offset=_START).view(shape)
    return Features(states, ((time, height, width),), (shape[1],))
