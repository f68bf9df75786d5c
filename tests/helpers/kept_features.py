"""Features of made-up pictures, and processes that keep them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.vision_features import Features
from basereward.io.tensor_cache import TOTAL

SETTING = "a tower"


def store_of(folder: Path, *, size: int = 2**20, setting: str = SETTING) -> FeatureStore:
    """A store that holds so many bytes."""
    return FeatureStore(folder, setting=setting, gib=size / 2**30)


def size_of(values: Features) -> int:
    """Bytes of the record of such features."""
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(Path(folder))
        assert store.keep(key(0), values)
        return store.file(key(0)).stat().st_size


def features(number: int, *, states: int = 2, width: int = 8, dtype: torch.dtype = torch.float32) -> Features:
    """Those of the picture of this number: 4 x 6 patches, six tokens; no two numbers have the same."""
    values = torch.randn(states, 6, width, generator=torch.Generator().manual_seed(number))
    return Features(values.to(dtype), ((1, 4, 6),), (6,))


def key(number: int) -> str:
    """64 hexadecimal digits of a number."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def same(found: Features | None, expected: Features) -> bool:
    """Whether these are the features, to the bit."""
    if found is None or found.states.dtype != expected.states.dtype or found.states.shape != expected.states.shape:
        return False
    bits = [each.states.contiguous().view(torch.uint8) for each in (found, expected)]
    return torch.equal(*bits) and (found.grids, found.tokens) == (expected.grids, expected.tokens)


def records(folder: Path) -> list[Path]:
    """All files but that of the total."""
    return [file for file in folder.rglob("*") if file.is_file() and file.name != TOTAL]


def on_disk(folder: Path) -> int:
    """Bytes of all files but that of the total."""
    return sum(file.stat().st_size for file in records(folder))


def process(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process of Python; it says `ready` and waits for a line before its program runs."""
    begin = "import sys; from tests.helpers.kept_features import *; print('ready', flush=True); input()"
    command = [sys.executable, "-c", f"{begin}\n{program}", *map(str, arguments)]
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ours)


def said(started: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert started.stdout is not None
    return started.stdout.readline().strip()


def go(*waiting: subprocess.Popen[str]) -> None:
    """Lets processes run, all at the same time."""
    assert [said(each) for each in waiting] == ["ready"] * len(waiting)
    for each in waiting:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
