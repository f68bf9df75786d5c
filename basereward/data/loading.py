"""Worker processes of data loaders: their timeouts, and errors when a worker ends or hangs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from basereward.errors import TrainingError
from basereward.io.processes import end_with_parent

TIMEOUT_S = 600
"""Seconds without a batch after which a worker counts as hung, for example because a disk does not answer."""
STREAM_TIMEOUT_S = 3600
"""The same for streams, since a resumed run first reads the stream up to its position."""
STOPPED_S = 60
"""Seconds for which a worker may be stopped (SIGSTOP) while the training process runs."""

# Messages of torch's errors, which have no type of their own. They are raised by the loader, or at any time by a signal
# handler.
ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited|is killed|is terminated)[^.]*")
HUNG = re.compile(r"DataLoader timed out after (\d+) seconds")
TAKES_TENSORS = "rebuild_storage_fd"  # torch's function that requests an announced tensor from a worker

WAY_OUT = "or set data.workers=0 to load in the training process"
STOPPED = f"a loading process was stopped (SIGSTOP) and has been ended; find out what stopped it, {WAY_OUT}"


def end_with_training(worker: int) -> None:
    """Make a worker end soon after the training process was killed; the `worker_init_fn` of data loaders.

    torch's own check is not reached by a worker that waits to send a batch. It would wait forever and keep its memory,
    locks and open files.

    Args:
        worker: the number of the worker; not used.
    """
    training = multiprocessing.parent_process()
    # The number that the training process had when it started the worker: it may be gone by now.
    assert training is not None
    assert training.pid is not None
    end_with_parent(training.pid)


def loader_fault(error: BaseException | None) -> TrainingError | None:
    """Convert an error that a worker caused to one with an explanation.

    Args:
        error: an error of a data loader.

    Returns:
        The new error; None if neither the error nor one of its causes comes from a worker that ended or hangs.

    >>> print(loader_fault(RuntimeError("DataLoader timed out after 600 seconds")))
    the loading processes gave no batch for 600 s: ... or set data.workers=0 to load in the training process
    >>> loader_fault(ValueError("another error")) is None
    True
    """
    # Chains of causes can be cyclic.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        is_torch_error = isinstance(error, RuntimeError) and not isinstance(error, TrainingError)
        message = str(error) if is_torch_error else ""
        if match := HUNG.search(message):
            return TrainingError(
                f"the loading processes gave no batch for {match[1]} s: one of them waits for a file. "
                f"Check the disk with the data, {WAY_OUT}"
            )
        match = ENDED.search(message)
        if match or _failed_to_receive(error):
            which = f"the loading process {match[1]} ended ({match[0]})" if match else "a loading process ended"
            return TrainingError(
                f"{which}: it was killed, most often by the system because memory ran out. Lower data.workers or "
                f"data.prefetch, {WAY_OUT}"
            )
        error = error.__cause__ or error.__context__
    return None


def _failed_to_receive(error: BaseException) -> bool:
    """Whether a worker had ended when a tensor was requested that it had announced."""
    if not isinstance(error, OSError | EOFError):
        return False
    return any(frame.name == TAKES_TENSORS for frame in traceback.extract_tb(error.__traceback__))


@contextlib.contextmanager
def loader_faults() -> Iterator[None]:
    """Context manager that explains errors of torch about a worker that ended or hangs.

    A stopped worker is killed after `STOPPED_S`: the loader's own timeout does not apply while it requests a tensor,
    and Python would wait for the worker forever at exit.

    Raises:
        TrainingError: a worker ended or hangs.

    >>> with loader_faults():
    ...     raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    Traceback (most recent call last):
    basereward.errors.TrainingError: the loading process 7 ended ...
    """
    done = threading.Event()
    ended: list[int] = []
    threading.Thread(target=_end_stopped, args=(done, ended), daemon=True).start()
    try:
        yield
    except Exception as error:
        try:
            fault = TrainingError(STOPPED) if ended else loader_fault(error)
        except RuntimeError as another:  # torch's signal handler may raise here, too
            fault = loader_fault(another)
        if fault is None:
            raise
        raise fault from error
    finally:
        done.set()


def _end_stopped(done: threading.Event, ended: list[int]) -> None:
    """Watch the workers until `done` is set; killed ones are added to `ended`."""
    # Seconds are counted by this loop and not by a clock, because this process may have been stopped as well.
    seconds: Counter[int] = Counter()
    while not done.wait(1):
        stopped = _stopped_children()
        seconds = Counter({child: seconds[child] + 1 for child in stopped})
        for child, count in seconds.items():
            if count >= STOPPED_S:
                ended.append(child)
                # The worker may have ended in the meantime.
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)


def _stopped_children() -> list[int]:
    """List the forks of this process that are stopped, on Linux; elsewhere none."""
    stopped = []
    with contextlib.suppress(OSError):
        own = Path("/proc/self/cmdline").read_bytes()
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                # The name of the process in this file may contain spaces and brackets, so the last bracket ends it.
                with contextlib.suppress(OSError, IndexError):
                    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
                    # A fork has the command line of its parent; other children, such as a shell, are none of ours.
                    if state in "Tt" and Path(f"/proc/{child}/cmdline").read_bytes() == own:
                        stopped.append(int(child))
    return stopped
