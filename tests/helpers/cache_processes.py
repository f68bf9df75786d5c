"""Processes that write a tensor cache until their parent kills them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from basereward.io.tensor_cache import SUFFIX, TOTAL, SizeLimit, TensorCache
from tests.helpers.forked_program import ForkedProgram

IDENTITY = "an identity"
LIMIT = 2**24


def cache_of(folder: Path, *, limited: bool = False, num_bytes: int = LIMIT, identity: str = IDENTITY) -> TensorCache:
    """Return a cache with or without a size limit."""
    limit = SizeLimit(num_bytes, setting="the.limit") if limited else None
    return TensorCache(folder, identity=identity, contents="tensors", limit=limit, earlier_files=("??/*.old", "*.npz"))


def key(number: int) -> str:
    """Return 64 hexadecimal digits that differ for each number up to 255."""
    return f"{number:02x}" * 32


def tensors(number: int, *, version: int = 0) -> dict[str, Tensor]:
    """Return tensors of several types; every number and version has different values."""
    generator = torch.Generator().manual_seed(1000 * version + number)
    values = torch.randn(16, 50, generator=generator)
    return {
        "values": values,
        "half": values[:2].bfloat16(),
        "number": torch.tensor(number),
        "version": torch.tensor(version),
    }


def equal(actual: dict[str, Tensor] | None, expected: dict[str, Tensor]) -> bool:
    """Return whether names, types, shapes and all bits are the same."""
    if actual is None or actual.keys() != expected.keys():
        return False
    for name, tensor in expected.items():
        other = actual[name]
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return False
        copies = (values.clone(memory_format=torch.contiguous_format).flatten() for values in (other, tensor))
        bits = [copy.view(torch.uint8) for copy in copies]
        if not torch.equal(*bits):
            return False
    return True


def entries(folder: Path) -> list[Path]:
    """Return the files of all entries."""
    return sorted(folder.glob(f"*/*{SUFFIX}"))


def other_files(folder: Path) -> list[str]:
    """Return the names of all files that are neither an entry nor the lock file."""
    return sorted(
        file.name for file in folder.rglob("*") if file.is_file() and file.suffix != SUFFIX and file.name != TOTAL
    )


def start(program: str, *arguments: object) -> ForkedProgram:
    """Start a Python process with this module's names; it prints `ready` and waits for a line before the program
    runs."""
    return ForkedProgram(__name__, program, *arguments)


def read_line(process: ForkedProgram) -> str:
    """Return the next line that a process prints."""
    return process.stdout.readline().strip()


def run_together(*processes: ForkedProgram) -> None:
    """Let started processes run their programs at the same time."""
    assert [read_line(process) for process in processes] == ["ready"] * len(processes)
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def finish(*processes: ForkedProgram) -> list[int]:
    """Wait for processes and return their exit codes."""
    for process in processes:
        process.communicate(timeout=120)
    return [process.returncode for process in processes]
