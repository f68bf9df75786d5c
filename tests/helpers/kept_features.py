"""Vision features with random values, and processes that store them."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import torch

from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.vision_features import Features
from basereward.io.tensor_cache import TOTAL
from tests.helpers.forked_program import ForkedProgram

SETTING = "a tower"


def store_of(folder: Path, *, size: int = 2**20, setting: str = SETTING) -> FeatureStore:
    """Return a store with a limit of `size` bytes."""
    return FeatureStore(folder, setting=setting, gib=size / 2**30)


def size_of(values: Features) -> int:
    """Return the size of the stored features in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Path(folder))
        assert store.keep(key(0), values)
        return store.file(key(0)).stat().st_size


def features(number: int, *, states: int = 2, width: int = 8, dtype: torch.dtype = torch.float32) -> Features:
    """Return the features of picture `number`: 4 x 6 patches and six tokens; every number has different values."""
    values = torch.randn(states, 6, width, generator=torch.Generator().manual_seed(number))
    return Features(values.to(dtype), ((1, 4, 6),), (6,))


def key(number: int) -> str:
    """Return 64 hexadecimal digits for a number."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def same(actual: Features | None, expected: Features) -> bool:
    """Return whether the features are equal to the bit."""
    if actual is None or actual.states.dtype != expected.states.dtype or actual.states.shape != expected.states.shape:
        return False
    bits = [stored.states.contiguous().view(torch.uint8) for stored in (actual, expected)]
    return torch.equal(*bits) and (actual.grids, actual.tokens) == (expected.grids, expected.tokens)


def records(folder: Path) -> list[Path]:
    """Return all files except the file with the total."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name != TOTAL]


def on_disk(folder: Path) -> int:
    """Return the size in bytes of all files except the file with the total."""
    return sum(file.stat().st_size for file in records(folder))


def process(program: str, *arguments: object) -> ForkedProgram:
    """Start a Python process that prints `ready` and waits for a line before it runs the program."""
    return ForkedProgram(__name__, program, *arguments)


def said(popen: ForkedProgram) -> str:
    """Return the next line that a process prints."""
    return popen.stdout.readline().strip()


def go(*waiting: ForkedProgram) -> None:
    """Let waiting processes run their programs at the same time."""
    assert [said(popen) for popen in waiting] == ["ready"] * len(waiting)
    for popen in waiting:
        popen.stdin.write("go\n")
        popen.stdin.flush()
