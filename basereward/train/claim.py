"""Which process works on a recipe, so that several sweeps of one folder of runs share their cells."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from basereward.train.runs import runs_root


@contextlib.contextmanager
def claim(recipe_sha256: str, *, wait: bool) -> Iterator[bool]:
    """Keeps a recipe for this process until the end of the block, or of the process, however it ends.

    Args:
        wait: for another process that has it.

    Yields:
        Whether it is ours; always with `wait`.
    """
    folder = runs_root() / ".claims"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / recipe_sha256, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)
