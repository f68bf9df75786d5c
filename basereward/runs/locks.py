"""Which process works on a recipe or a run, so that several sweeps of one folder of runs share their cells and no two
processes write into one run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from basereward.runs.run_folder import RunFolder, runs_root


@contextlib.contextmanager
def cell_lock(recipe_sha256: str, *, wait: bool) -> Iterator[bool]:
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


_locked: dict[Path, int] = {}  # the open lock file of every run that this process has


def lock_run(run: RunFolder) -> bool:
    """Keeps a run for this process until `unlock_run`, or until the process ends, however it ends.

    Returns:
        Whether it is ours; False when another process, or this one, has it.
    """
    if run.path in _locked:
        return False
    descriptor = os.open(run.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # A record lock is the process's own. One by `flock` would live on in a loader's process that was forked later
        # and outlives its parent for some seconds.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return False
    _locked[run.path] = descriptor
    return True


def unlock_run(run: RunFolder) -> None:
    """Lets go of a run; nothing happens when it is not ours."""
    descriptor = _locked.pop(run.path, None)
    if descriptor is not None:
        os.close(descriptor)
