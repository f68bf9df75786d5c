"""Turns Ctrl-C into one KeyboardInterrupt while there is work to stop, and ignores it before and after; SIGTERM stops a
training after it has saved.

Python's own handler raises at any place: during imports, while the process waits for its next task, or in the exit
handlers of libraries. In these places it prints a traceback and stops nothing.
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
        seen: whether the process got the signal.

    >>> interrupts = Interrupts()
    >>> interrupts.seen = True  # as if the user had pressed Ctrl-C before the work began
    >>> try:
    ...     with interrupts.stopping():
    ...         print("not reached")
    ... except KeyboardInterrupt:
    ...     print("stopped")
    stopped
    """

    def __init__(self) -> None:
        self.seen = False
        self._stops_work = False

    def install(self) -> Interrupts:
        """Handles SIGINT from here on; a signal that was blocked until now is handled first."""
        # A shell starts its background jobs with SIGINT ignored, and they must go on ignoring it.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        # The parent may have started this process with SIGINT blocked, see `popen_with_interrupts_blocked`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return self

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """A block of work that the first signal stops; a signal that came before stops it at its start.

        Raises:
            KeyboardInterrupt: the process got the signal.
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
            # A second signal must not interrupt the cleanup that the first one started.
            self._stops_work = False
            raise KeyboardInterrupt


class Terminated(KeyboardInterrupt):
    """The process was asked by SIGTERM to end, and has saved its work: its machine is taken away, or its time is over.

    It is handled as Ctrl-C, so that the run is marked as killed and can be resumed.
    """


class Termination:
    """The process's handling of SIGTERM: at once, or by the work itself where that can save what it has done.

    Attributes:
        requested: whether the process got the signal.
        is_deferred: whether the work looks at `requested` itself.

    >>> Termination().requested
    False
    """

    def __init__(self) -> None:
        self.requested = False
        self.is_deferred = False
        self._is_installed = False

    def install(self) -> None:
        """Handles SIGTERM from here on. In another thread than the main one, this does nothing."""
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, self._handle)
            self._is_installed = True

    def reinstall(self) -> None:
        """Handles SIGTERM again where a library has replaced the handler; does nothing without an `install`."""
        if self._is_installed:
            self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Once: the cleanup must not be interrupted by a second signal.
        first, self.requested = not self.requested, True
        if first and not self.is_deferred:
            raise Terminated


termination = Termination()
"""That of this process."""


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """In the block, SIGINT waits; a process that starts in it has SIGINT blocked until it calls `Interrupts.install`.

    >>> with interrupts_blocked():
    ...     subprocess.run(["true"]).returncode
    0
    """
    # The mask is inherited, so that there is no moment at which the child has Python's own handler.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def popen_with_interrupts_blocked(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Starts a process in which SIGINT is blocked until it calls `Interrupts.install`.

    Args:
        command: the program and its arguments.
        options: keyword arguments of `subprocess.Popen`.

    >>> popen_with_interrupts_blocked(["true"]).wait()
    0
    """
    with interrupts_blocked():
        return subprocess.Popen(command, text=True, **options)
