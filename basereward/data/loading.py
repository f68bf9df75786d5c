"""Processes that load data: how long they are waited for, and what is said when one of them ends or hangs."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

from basereward.errors import TrainingError

TIMEOUT_S = 600
"""Seconds without a batch after which a loading process counts as hung: stopped, or waiting for a disk that is gone."""
STREAM_TIMEOUT_S = 3600
"""The same for streams, of which a resumed run reads up to its place before the first batch."""

# What torch raises, by a signal handler at any moment or by the loader that waits. It has no type of its own.
ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed|is terminated)[^.]*")
HUNG = re.compile(r"DataLoader timed out after (\d+) seconds")


def loader_fault(error: BaseException | None) -> TrainingError | None:
    """The error to show for one that a loading process caused, at whatever it interrupted; None for any other."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        told = str(error) if isinstance(error, RuntimeError) and not isinstance(error, TrainingError) else ""
        if found := ENDED.search(told):
            return TrainingError(
                f"the loading process {found[1]} ended ({found[0]}): it was killed, most often by the system for want "
                "of memory. Lower data.workers or data.prefetch, or set data.workers=0 to load in the training process"
            )
        if found := HUNG.search(told):
            return TrainingError(
                f"the loading processes gave no batch for {found[1]} s: one of them is stopped (state T in `ps`), or "
                "waits for a file that does not come. Look at the disk that the data lie on, or set data.workers=0"
            )
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def loader_faults() -> Iterator[None]:
    """Turns what torch raises for a loading process that ended or hangs into an error that says so.

    Raises:
        TrainingError: which process, why, and what to do.
    """
    try:
        yield
    except Exception as error:
        fault = loader_fault(error)
        if fault is None:
            raise
        _kill_stopped()
        raise fault from error


def _kill_stopped() -> None:
    """Kills loading processes that are stopped: Python waits for them when it ends, and they would never end."""
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError, IndexError):
            state = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if child.daemon and state in ("T", "t"):
                child.kill()
