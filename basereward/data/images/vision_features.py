"""Features of images from a frozen vision tower, and the file format that stores them: a header and the numbers.

Shapes: S states per token (the input of the language model, and those that are added in deeper layers), F visual
tokens, D channels.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

MAGIC = b"brfeat01"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Magic, key, index in DTYPES, S, F and D, patches of the image in time, height and width.
_HEADER = struct.Struct("<8s32sQ3Q3Q")
_CHECKSUM = struct.Struct("<Q")  # CRC-32 of the header and the numbers; it is stored between the two
_START = _HEADER.size + _CHECKSUM.size  # offset of the numbers

Grid = tuple[int, int, int]
"""Patches of an image in time, height and width."""


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one or several images.

    >>> features = Features(torch.zeros(1, 3, 2), grids=((1, 4, 2), (1, 2, 2)), tokens=(2, 1))
    >>> [states.shape[1] for states in features.split()]
    [2, 1]
    """

    states: Tensor  # (S, F, D), image after image
    grids: tuple[Grid, ...]  # of each image
    tokens: tuple[int, ...]  # visual tokens of each image; F together

    def map(self, change: Callable[[Tensor], Tensor]) -> Features:
        """Apply a function to the states."""
        return replace(self, states=change(self.states))

    def split(self) -> list[Tensor]:
        """Return the states of each image, `(S, tokens, D)`."""
        return list(torch.split(self.states, list(self.tokens), dim=1))

    @staticmethod
    def joined(features: Sequence[Features]) -> Features:
        """Concatenate features of one vision tower."""
        return Features(
            torch.cat([part.states for part in features], dim=1),
            tuple(chain.from_iterable(part.grids for part in features)),
            tuple(chain.from_iterable(part.tokens for part in features)),
        )


def pack(key: str, features: Features) -> bytes:
    """Serialize features to the content of a file.

    Args:
        key: 64 hexadecimal digits.
        features: the features of one image, on any device.
    """
    states = features.states.detach().cpu().contiguous()
    (grid,) = features.grids
    numbers = states.view(torch.uint8).numpy().tobytes()
    kind = DTYPES.index(states.dtype)
    header = _HEADER.pack(MAGIC, bytes.fromhex(key), kind, *states.shape, *grid)
    return header + _CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header))) + numbers


def read(file: Path, key: str) -> Features | None:
    """Read a file of `pack`; None if there is no such file, or it is truncated, damaged or has another key."""
    try:
        with file.open("rb") as opened:
            content = bytearray(os.fstat(opened.fileno()).st_size)
            complete = opened.readinto(content) == len(content)
    except OSError:
        return None
    if not complete or len(content) <= _START:
        return None
    magic, owner, kind, *rest = _HEADER.unpack_from(content)
    (checksum,) = _CHECKSUM.unpack_from(content, _HEADER.size)
    shape, (time, height, width) = rest[:3], rest[3:]
    if magic != MAGIC or owner != bytes.fromhex(key) or kind >= len(DTYPES):
        return None
    count = shape[0] * shape[1] * shape[2]
    view = memoryview(content)
    actual = zlib.crc32(view[_START:], zlib.crc32(view[: _HEADER.size]))
    if count * DTYPES[kind].itemsize != len(content) - _START or actual != checksum:
        return None
    states = torch.frombuffer(content, dtype=DTYPES[kind], offset=_START).view(shape)
    return Features(states, ((time, height, width),), (shape[1],))
