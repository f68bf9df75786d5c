"""Worker processes: a parent sends tasks line by line, the worker returns results as files, and ends with its parent.

Cells run in processes of their own because a GPU fault makes the GPU unusable for the whole process, and because only
the end of a process surely frees its memory. Results are files, because libraries print to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from basereward.errors import BaseRewardError, RunError, explain
from basereward.io.files import write_atomic
from basereward.io.interrupts import Interrupts, Terminated, popen_with_interrupts_blocked, termination
from basereward.io.logs import log_to_stderr
from basereward.io.processes import describe_end, end_with_parent
from basereward.io.progress import reporting
from basereward.recipe.trust import is_trusted, trusting
from basereward.sweeps.launcher import LostWorkerError

EXIT_INTERRUPTED = 130
"""128 + SIGINT, the exit code of a shell for a program that Ctrl-C ended."""
POLL_S = 0.05
"""Seconds between looks for a result."""
EXIT_TERMINATED = 143
"""128 + SIGTERM."""
END_LIMIT_S = 10.0
"""Seconds that a worker has to end by itself before it is killed."""
SAVE_S = 30.0
"""Seconds in which a cell can save what it has done, when its machine is taken away."""
TRUST = "--trust"
"""Argument of a worker whose parent lets foreign code run."""

Work: TypeAlias = Callable[[str, str, str | None], dict[str, Any]]
"""`(task, parent, resume) -> result`; see `WorkerProcess.run`."""


class WorkerProcess:
    """The process `python -m MODULE PID`, whose `main` calls `serve`. It runs one task after another.

    Args:
        module: of the worker.
        environment: variables beside those of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="basereward-cell-")
        # A new interpreter and not a fork: CUDA does not work in a child that was forked after its parent used it.
        command = [sys.executable, "-m", module, str(os.getpid()), *([TRUST] if is_trusted() else [])]
        variables = {**os.environ, **(environment or {})}
        self._process = popen_with_interrupts_blocked(command, env=variables, stdin=subprocess.PIPE)

    def run(self, task: str, *, parent: str, resume: str | None = None) -> dict[str, Any]:
        """Run a task, and return its result.

        Args:
            task: what the worker does, as text.
            parent: id of the sweep.
            resume: id of the run to resume.

        Raises:
            RunError: the task failed; the message is that of the worker.
            LostWorkerError: the process was killed, or stopped by SIGTERM.
        """
        result_file = Path(self._folder.name) / "result.json"
        # The file of the task before it would be read as the result of this one.
        result_file.unlink(missing_ok=True)
        line = {"task": task, "result": str(result_file), "parent": parent, "resume": resume}
        assert self._process.stdin is not None
        # A broken pipe means that the process has died, which the loop below notices.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        # Polling, because a wait on the process alone would miss a result, and one on the file a process that dies.
        while self._process.poll() is None and not result_file.exists():
            time.sleep(POLL_S)
        # Looked for again: the process may have written its result and ended between the two conditions of the loop.
        if not result_file.exists():
            code = self._process.wait()
            message = f"its process ended with {describe_end(code)} and left no result; its output is above"
            # A signal comes from outside: the machine had no memory left, or is taken away.
            raise LostWorkerError(message) if code < 0 or code == EXIT_TERMINATED else RunError(message)
        result: dict[str, Any] = json.loads(result_file.read_text())
        if "error" in result:
            raise RunError(result["error"])
        return result

    def interrupt(self) -> None:
        """Stop the current task, as Ctrl-C does; `close` then waits for the end of the process."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        """Stop the current task at its next checkpoint; `wait` then waits for the end of the process."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, limit_s: float) -> bool:
        """Wait for the end of the process, at most `limit_s` seconds; whether it has ended."""
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the process. It ends by itself when its input ends."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def run_in_worker(
    task: str,
    *,
    parent: str,
    environment: Mapping[str, str] | None = None,
    on_start: Callable[[WorkerProcess], None] | None = None,
) -> dict[str, Any]:
    """Train a cell in a process of its own; in the process that a cluster has started for it.

    When this process is stopped, so is the cell: Ctrl-C ends it, and at any other end, as by SIGTERM, it saves first.

    Args:
        task: `CellJob.task`.
        parent: `CellJob.parent`.
        environment: variables beside those of this process.
        on_start: gets the process.

    Returns:
        The result; `{"error": message}` for a cell that failed, `{"lost": message}` for one whose process was killed.
        A cluster would repeat work that raises.
    """
    worker = WorkerProcess("basereward.sweeps.cell_worker", environment)
    if on_start is not None:
        on_start(worker)
    try:
        return worker.run(task, parent=parent)
    except LostWorkerError as error:
        return {"lost": str(error)}
    except RunError as error:
        return {"error": str(error)}
    except KeyboardInterrupt:
        worker.interrupt()
        raise
    except BaseException:
        worker.terminate()
        worker.wait(SAVE_S)
        raise
    finally:
        worker.close()


def read_outcome(result: dict[str, Any]) -> dict[str, Any]:
    """The result of `run_in_worker`, or its error.

    Raises:
        RunError: the cell failed.
        LostWorkerError: its process was killed.

    >>> read_outcome({"error": "no memory"})
    Traceback (most recent call last):
    basereward.errors.RunError: no memory
    """
    if "lost" in result:
        raise LostWorkerError(result["lost"])
    if "error" in result:
        raise RunError(result["error"])
    return result


class ReusedWorker:
    """A worker that is started with its first task, and started again after a task failed.

    Args:
        module: of the worker.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: WorkerProcess | None = None

    def run(self, task: str, *, parent: str) -> dict[str, Any]:
        """Run a task, and return its result; see `WorkerProcess.run`. Ctrl-C stops the task too.

        Raises:
            RunError: the task failed; the message is that of the worker.
        """
        self._process = self._process or WorkerProcess(self._module)
        try:
            return self._process.run(task, parent=parent)
        except KeyboardInterrupt:
            self._process.interrupt()
            raise
        except RunError:
            # A failed process may hold memory, or a GPU in a fault, which would make the next task fail as well.
            self.close()
            raise

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None


def serve(load: Callable[[], Work], *, pid: str, trust: str = "") -> int:
    """Run tasks from standard input, and write each result, or its error, to the file that the task names.

    Args:
        load: imports what the work needs, and returns the work. It takes seconds, in which the parent may die.
        pid: process number of the parent. The parent passes it, because after its death `getppid` gives another one.
        trust: `TRUST` when the parent lets foreign code run.

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
    # A signal between two tasks raises nothing, and the exit code still says that there was one.
    return EXIT_INTERRUPTED if interrupts.seen else 0
