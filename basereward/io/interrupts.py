"""Ctrl-C as one KeyboardInterrupt while there is work to stop, and as nothing before and after it.

Python's own handler raises wherever the process happens to be: among its imports, while it waits for its next task, or
in what libraries do at the exit of the interpreter. There it ends in a traceback and stops nothing.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any


class Interrupts:
    """The process's handler of SIGINT.

    Attributes:
        seen: whether there was one.
    """

    def __init__(self) -> None:
        self.seen = False
        self._stops_work = False

    def install(self) -> Interrupts:
        """Handles SIGINT from here on; a signal that was blocked until now is handled first.

        A process that was started to ignore SIGINT, as a shell starts its background jobs, goes on ignoring it.
        """
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """A block of work, which the first signal ends; one that came before does so at once.

        Raises:
            KeyboardInterrupt: there was a signal.
        """
        self._stops_work = True
        try:
            if self.seen:
                raise KeyboardInterrupt
            yield
        finally:
            self._stops_work = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self._stops_work:
            self._stops_work = False  # what the first one has begun to close is not interrupted again
            raise KeyboardInterrupt


def popen_with_interrupts_blocked(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Starts a process in which SIGINT waits until its `Interrupts.install`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(command, text=True, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
