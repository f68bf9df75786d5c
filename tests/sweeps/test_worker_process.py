"""Test that tasks in forked processes end as those in a process of their own do, and that the worker stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from basereward.errors import RunError
from basereward.sweeps.launcher import LostWorkerError
from basereward.sweeps.worker_process import WorkerProcess
from tests.sweeps.test_sweep import wait_for_end

ROOT = Path(__file__).resolve().parents[2]
FAILS = "from basereward.errors import RunError; raise RunError('no rows')"
KILLED = "import os; os.kill(os.getpid(), 9)"
CRASHES = "import os; os._exit(3)"
CRASHES_AT_ITS_END = "import atexit, os; atexit.register(os._exit, 3)"
SAVES = """
import time
from pathlib import Path
Path({file!r}).touch()
try:
    time.sleep(600)
except KeyboardInterrupt as stop:
    Path({file!r}).write_text(type(stop).__name__)
    raise
"""


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """Start a worker."""
    monkeypatch.chdir(ROOT)
    process = WorkerProcess("tests.helpers.small_worker")
    yield process
    process.close()


def run(worker: WorkerProcess, task: str, **options: Any) -> dict[str, Any]:
    """Run a task in a forked process."""
    return worker.run(task, parent="s", fork=True, **options)


def test_tasks_have_processes_of_their_own(worker: WorkerProcess) -> None:
    """They are children of one worker, and see nothing of each other."""
    first = run(worker, "import json; json.seen = True", resume="r")
    second = run(worker, "import json; assert not hasattr(json, 'seen')")
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"]
    assert (first["resume"], second["resume"]) == ("r", None)
    in_worker = worker.run("pass", parent="s")
    assert in_worker["pid"] == first["parent"]


@pytest.mark.parametrize("task", [FAILS, CRASHES_AT_ITS_END])
def test_worker_goes_on_after_a_task(task: str, worker: WorkerProcess) -> None:
    """An error of a task is raised; what happens after its result is written is no fault."""
    if task == FAILS:
        with pytest.raises(RunError, match="no rows"):
            run(worker, task)
    else:
        assert run(worker, task)["resume"] is None
    assert run(worker, "pass")["resume"] is None
    assert not worker.has_ended


@pytest.mark.parametrize(
    ("task", "error", "end"), [(KILLED, LostWorkerError, "signal 9"), (CRASHES, RunError, "exit code 3")]
)
def test_process_that_ends_without_a_result(task: str, error: type[Exception], end: str, worker: WorkerProcess) -> None:
    """The error says how it ended, and the worker has ended in the same way."""
    with pytest.raises(error, match=end) as raised:
        run(worker, task)
    assert type(raised.value) is error
    assert worker.has_ended


def begun(worker: WorkerProcess, file: Path) -> Future[dict[str, Any]]:
    """Begin a task that runs until it is stopped."""
    threads = ThreadPoolExecutor(1)
    future = threads.submit(run, worker, SAVES.format(file=str(file)))
    threads.shutdown(wait=False)
    while not file.exists():
        assert not future.done(), future.result()
        time.sleep(0.01)
    return future


@pytest.mark.parametrize(
    ("stop", "raised", "error"),
    [
        (WorkerProcess.interrupt, "KeyboardInterrupt", RunError),
        (WorkerProcess.terminate, "Terminated", LostWorkerError),
    ],
)
def test_stopped_task_can_save(
    stop: Callable[[WorkerProcess], None], raised: str, error: type[Exception], worker: WorkerProcess, tmp_path: Path
) -> None:
    """Ctrl-C and SIGTERM of the worker reach its task, and the worker ends after it."""
    future = begun(worker, tmp_path / "state")
    stop(worker)
    with pytest.raises(error) as stopped:
        future.result(60)
    assert type(stopped.value) is error
    assert (tmp_path / "state").read_text() == raised
    assert worker.has_ended


def test_task_ends_with_its_worker(worker: WorkerProcess, tmp_path: Path) -> None:
    """SIGKILL ends the worker, and soon the process of its task."""
    process = psutil.Process(run(worker, "pass")["parent"])
    future = begun(worker, tmp_path / "state")
    (task,) = process.children()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(LostWorkerError):
        future.result(60)
    assert wait_for_end(task.pid) < 15
