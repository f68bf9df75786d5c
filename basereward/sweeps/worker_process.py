"""Work in a process of its own: it is told what to do line by line, answers by files, and ends when its parent does.

A GPU that a cell has left in a fault is lost to the whole process, and memory comes back for certain only when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from basereward.errors import BaseRewardError, RunError, explain
from basereward.io.files import write_atomic
from basereward.io.interrupts import Interrupts, popen_with_interrupts_blocked
from basereward.io.logs import log_to_stderr
from basereward.recipe.trust import is_trusted, trusting

EXIT_INTERRUPTED = 130
LOOK_S = 0.05  # between looks for an answer
END_S = 10.0  # that a child has to end by itself
TRUST = "--trust"  # the parent's word that foreign code may run, which holds for the child too

Work: TypeAlias = Callable[[str, str, str | None], dict[str, Any]]
"""`(told, parent, resume) -> result`; see `WorkerProcess.ask`."""


class WorkerProcess:
    """The process `python -m MODULE PID`, whose `main` calls `answer`. It does one thing after another."""

    def __init__(self, module: str) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="basereward-cell-")
        command = [sys.executable, "-m", module, str(os.getpid()), *([TRUST] if is_trusted() else [])]
        self._process = popen_with_interrupts_blocked(command, stdin=subprocess.PIPE)

    def ask(self, told: str, *, parent: str, resume: str | None = None) -> dict[str, Any]:
        """Returns what it answers.

        Args:
            told: what it works on.
            parent: id of the sweep.
            resume: id of the run that it goes on with.

        Raises:
            RunError: it failed, or the process has died; the message is its own.
        """
        result = Path(self._place.name) / "result.json"
        result.unlink(missing_ok=True)
        task = {"told": told, "result": str(result), "parent": parent, "resume": resume}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which is told below
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        while self._process.poll() is None and not result.exists():
            time.sleep(LOOK_S)
        if not result.exists():
            ending = _ending(self._process.wait())
            raise RunError(f"its process ended with {ending} and left no result; its output is above")
        found: dict[str, Any] = json.loads(result.read_text())
        if "error" in found:
            raise RunError(found["error"])
        return found

    def interrupt(self) -> None:
        """Stops what the process works on, as Ctrl-C does; `close` then waits for its end."""
        self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Ends the process, which ends by itself when it is told nothing more."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._place.cleanup()


class ReusedWorker:
    """The process `python -m MODULE PID`: started when something is asked, and anew after something has failed."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._child: WorkerProcess | None = None

    def ask(self, told: str, *, parent: str) -> dict[str, Any]:
        """Returns what the process answers; see `WorkerProcess.ask`. Ctrl-C stops it too.

        Raises:
            RunError: the process failed; the message is its own.
        """
        self._child = self._child or WorkerProcess(self._module)
        try:
            return self._child.ask(told, parent=parent)
        except KeyboardInterrupt:
            self._child.interrupt()
            raise
        except RunError:  # a process that has failed may hold memory, or a GPU in a fault
            self.close()
            raise

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None


def answer(begin: Callable[[], Work], *, pid: str, trust: str = "") -> int:
    """Works in the child on what it is told, and writes each result, or the error, to the file that is named with it.

    Args:
        begin: imports what the work needs, which takes seconds in which the parent may be gone already.
        pid: of the parent: asked for here, it could be that of another process, since the parent is gone.
        trust: `TRUST` when the parent lets foreign code run.

    Returns:
        The exit code.
    """
    interrupts = Interrupts().install()
    threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    with log_to_stderr(), trusting(trust == TRUST):
        if trust:
            sys.path.append(os.getcwd())
        work = begin()
        for line in sys.stdin:
            task = json.loads(line)
            try:
                with interrupts.stopping():
                    found = work(task["told"], task["parent"], task["resume"])
            except BaseRewardError as error:
                found = {"error": explain(error)}
            except KeyboardInterrupt:  # the sweep has it too, and says so
                return EXIT_INTERRUPTED
            write_atomic(task["result"], json.dumps(found))
    return EXIT_INTERRUPTED if interrupts.seen else 0


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
