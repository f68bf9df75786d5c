"""Worker processes: a parent sends tasks line by line, the worker returns results as files, and ends with its parent.

Cells run in processes of their own because a GPU fault makes the GPU unusable for the whole process, and because only
the end of a process surely frees its memory. Results are files, because libraries print to standard output. What the
worker does is in `worker_loop`.
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
from typing import Any

from basereward.errors import RunError
from basereward.io.interrupts import popen_with_interrupts_blocked
from basereward.io.processes import describe_end
from basereward.recipe.trust import is_trusted
from basereward.sweeps.launcher import LostWorkerError
from basereward.sweeps.worker_loop import EXIT_TERMINATED, TRUST

AMD_GPU = Path("/dev/kfd")
"""Device file of ROCm, which exists on a machine with an AMD GPU."""
POLL_S = 0.05
"""Seconds between looks for a result."""
END_LIMIT_S = 10.0
"""Seconds that a worker has to end by itself before it is killed."""
SAVE_S = 30.0
"""Seconds in which a cell can save what it has done, when its machine is taken away."""


class WorkerProcess:
    """The process `python -m MODULE PID`, whose `main` calls `serve`. It runs one task after another.

    Args:
        module: of the worker.
        environment: variables beside those of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="basereward-cell-")
        self._tasks = 0
        # A new interpreter and not a fork: CUDA does not work in a child that was forked after its parent used it.
        command = [sys.executable, "-m", module, str(os.getpid()), *([TRUST] if is_trusted() else [])]
        variables = {**os.environ, **(environment or {})}
        self._process = popen_with_interrupts_blocked(command, env=variables, stdin=subprocess.PIPE)

    def run(self, task: str, *, parent: str, resume: str | None = None, fork: bool = False) -> dict[str, Any]:
        """Run a task, and return its result.

        Args:
            task: what the worker does, as text.
            parent: id of the sweep.
            resume: id of the run to resume.
            fork: run it in a process that is forked from the worker; see `can_fork`. The worker must have run all
                earlier tasks in this way too.

        Raises:
            RunError: the task failed; the message is that of the worker.
            LostWorkerError: the process was killed, or stopped by SIGTERM.
        """
        self._tasks += 1
        # Of this task alone: the worker may look for the file after the parent has read it.
        result_file = Path(self._folder.name) / f"result-{self._tasks}.json"
        line = {"task": task, "result": str(result_file), "parent": parent, "resume": resume, "fork": fork}
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

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

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


def can_fork() -> bool:
    """Whether a task may run in a process that is forked from one with imported libraries, on a machine without GPUs.

    Only on Linux, since libraries of macOS do not work in a forked process. The runtime of a GPU, which an import may
    have started, does not either. The caller checks for NVIDIA GPUs, and this function for AMD GPUs.
    """
    return sys.platform == "linux" and not AMD_GPU.exists()


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
