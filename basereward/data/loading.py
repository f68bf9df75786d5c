"""Processes that load data: how long they are waited for, and what is said when one of them ends or hangs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from basereward.errors import TrainingError

TIMEOUT_S = 600
"""Seconds without a batch after which a loading process counts as hung: it waits for a disk that is gone, say."""
STREAM_TIMEOUT_S = 3600
"""The same for streams, of which a resumed run reads up to its place before the first batch."""
STOPPED_S = 60
"""Seconds that a loading process may be stopped (SIGSTOP) while the training process is not."""

# What torch raises, by a signal handler at any moment or by the loader that waits. It has no type of its own.
ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed|is terminated)[^.]*")
HUNG = re.compile(r"DataLoader timed out after (\d+) seconds")
TAKES_TENSORS = "rebuild_storage_fd"  # of torch, which asks the loading process for every tensor that it announced

WAY_OUT = "or set data.workers=0 to load in the training process"
STOPPED = f"a loading process was stopped (SIGSTOP) and has been ended; find out what stopped it, {WAY_OUT}"


def end_with_parent(worker: int) -> None:
    """Called in a loading process when it begins: ends it soon after the training process was killed.

    torch's own check does not reach a process that waits to hand over a batch, and it would wait for ever with all
    that it holds: memory, locks, open files.
    """
    threading.Thread(target=_wait_for_orphaning, args=(os.getppid(),), daemon=True).start()


def _wait_for_orphaning(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def loader_fault(error: BaseException | None) -> TrainingError | None:
    """The error to show for one that a loading process caused, at whatever it interrupted; None for any other."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        told = str(error) if isinstance(error, RuntimeError) and not isinstance(error, TrainingError) else ""
        if found := HUNG.search(told):
            return TrainingError(
                f"the loading processes gave no batch for {found[1]} s: one of them waits for a file that does not "
                f"come. Look at the disk that the data lie on, {WAY_OUT}"
            )
        found = ENDED.search(told)
        if found or _lost_a_tensor(error):
            which = f"the loading process {found[1]} ended ({found[0]})" if found else "a loading process ended"
            return TrainingError(
                f"{which}: it was killed, most often by the system for want of memory. Lower data.workers or "
                f"data.prefetch, {WAY_OUT}"
            )
        error = error.__cause__ or error.__context__
    return None


def _lost_a_tensor(error: BaseException) -> bool:
    """Whether a loading process was gone when it was asked for a tensor of a batch that it had announced."""
    if not isinstance(error, OSError | EOFError):
        return False
    return any(frame.name == TAKES_TENSORS for frame in traceback.extract_tb(error.__traceback__))


@contextlib.contextmanager
def loader_faults() -> Iterator[None]:
    """Turns what torch raises for a loading process that ended or hangs into an error that says so.

    A process that is stopped is ended after `STOPPED_S`: the loader's own timeout does not hold while it is asked for a
    tensor, and Python would wait for it without end when it exits.

    Raises:
        TrainingError: which process, why, and what to do.
    """
    done = threading.Event()
    ended: list[int] = []
    threading.Thread(target=_end_stopped, args=(done, ended), daemon=True).start()
    try:
        yield
    except Exception as error:
        try:
            fault = TrainingError(STOPPED) if ended else loader_fault(error)
        except RuntimeError as another:  # torch's signal handler raises wherever this process is, here too
            fault = loader_fault(another)
        if fault is None:
            raise
        raise fault from error
    finally:
        done.set()


def _end_stopped(done: threading.Event, ended: list[int]) -> None:
    """Watches the loading processes until `done`; those that it ends go to `ended`."""
    seconds: Counter[int] = Counter()  # as this process saw them: it may have been stopped too
    while not done.wait(1):
        stopped = _stopped_children()
        seconds = Counter({child: seconds[child] + 1 for child in stopped})
        for child, count in seconds.items():
            if count >= STOPPED_S:
                ended.append(child)
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)


def _stopped_children() -> list[int]:
    """Forks of this process that are stopped, by what Linux says of them; elsewhere none."""
    found = []
    with contextlib.suppress(OSError):
        own = Path("/proc/self/cmdline").read_bytes()
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError, IndexError):
                    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                    if state in "Tt" and Path(f"/proc/{child}/cmdline").read_bytes() == own:
                        found.append(int(child))
    return found
