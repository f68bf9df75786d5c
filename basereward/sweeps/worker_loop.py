"""What a worker process does: it runs the tasks that its parent sends, and ends with its parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from basereward.errors import BaseRewardError, explain
from basereward.io.files import write_atomic
from basereward.io.interrupts import Interrupts, Terminated, termination
from basereward.io.logs import log_to_stderr
from basereward.io.processes import end_with_parent
from basereward.io.progress import reporting
from basereward.recipe.trust import trusting

EXIT_INTERRUPTED = 130
"""128 + SIGINT, the exit code of a shell for a program that Ctrl-C ended."""
EXIT_TERMINATED = 143
"""128 + SIGTERM."""
TRUST = "--trust"
"""Argument of a worker whose parent was started with `--trust`."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)

Work: TypeAlias = Callable[[str, str, str | None], dict[str, Any]]
"""`(task, parent, resume) -> result`; see `WorkerProcess.run`."""


def serve(
    load: Callable[[], Work], *, pid: str, trust: str = "", prepare: Callable[[str], None] = lambda task: None
) -> int:
    """Run tasks from standard input, and write each result, or its error, to the file that the task names.

    A task runs in this process, or in one that is forked from it and has the libraries, whose import takes seconds.
    When that one ends without a result, this process ends in the same way: by the same signal, or with its exit code.

    Args:
        load: imports what the work needs, and returns the work. It takes seconds, in which the parent may die.
        pid: PID of the parent. The parent passes it, because `getppid` gives another one after the parent's death.
        trust: `TRUST` when the parent allows code from outside the package (`--trust`).
        prepare: imports what a task needs beside that, before a process is forked for it.

    Returns:
        The exit code.
    """
    interrupts = Interrupts().install()
    termination.install()
    end_with_parent(int(pid))
    with reporting(), log_to_stderr(), trusting(trust == TRUST):
        if trust:
            # The user's own classes are often in the working directory, which `-m` leaves out with PYTHONSAFEPATH.
            sys.path.append(os.getcwd())
        work = load()
        for text in sys.stdin:
            line = json.loads(text)
            if line["fork"]:
                prepare(line["task"])
            child = _fork() if line["fork"] else 0
            if child:
                code = _wait(child)
                # What happens after the result is written, when the libraries clean up, is not an error of the task.
                if not Path(line["result"]).exists():
                    return _end_as(code)
                continue
            code = _run(work, line, interrupts)
            if code or line["fork"]:
                return code
    # A signal between two tasks raises nothing, and the exit code still says that there was one.
    return EXIT_INTERRUPTED if interrupts.seen else 0


def _run(work: Work, line: dict[str, Any], interrupts: Interrupts) -> int:
    """Run a task in this process. Returns the exit code of a process that was stopped, else 0."""
    # A forked process reports no progress until `reporting` allows it.
    with reporting() if line["fork"] else contextlib.nullcontext():
        try:
            if termination.requested:
                return EXIT_TERMINATED
            with interrupts.stopping():
                result = work(line["task"], line["parent"], line["resume"])
        except BaseRewardError as error:
            result = {"error": explain(error)}
        except Terminated:
            return EXIT_TERMINATED
        except KeyboardInterrupt:
            # A terminal sends the signal to the sweep too, which logs it.
            return EXIT_INTERRUPTED
    write_atomic(line["result"], json.dumps(result))
    return 0


def _fork() -> int:
    """Fork this process. Returns the number of the child, which ends with this process; in the child 0."""
    worker = os.getpid()
    # A signal between the fork and `_wait` would be lost for the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        end_with_parent(worker)
    return child


def _wait(child: int) -> int:
    """Wait for the end of a child, which gets the signals of this process. Returns its exit code, or minus a signal."""
    with _forwarding(child):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@contextlib.contextmanager
def _forwarding(child: int) -> Iterator[None]:
    """In the block, SIGINT and SIGTERM are forwarded to a child; this process only notes that a signal came."""
    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def forward(number: int, frame: Any) -> None:
        # Ctrl-C on a terminal also reaches the child directly; a second signal changes nothing there.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    # Otherwise SIGTERM would end this process before its child has saved.
    termination.is_deferred = True
    for number, handler in handlers.items():
        # A shell starts its background jobs with SIGINT ignored, and they must go on ignoring it.
        if handler is not signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        termination.is_deferred = False


def _end_as(code: int) -> int:
    """End this process by the signal that has ended its child; else return the exit code."""
    if code < 0:
        # SIGKILL has no handler that could be reset.
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
