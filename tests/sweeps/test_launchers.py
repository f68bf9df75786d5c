"""Test the contract of every launcher in the folder of launchers, and how the sweep handles an invalid launcher."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import RecipeError, RunError
from basereward.recipe import Cell, load_cells
from basereward.recipe.checks.targets import short_names
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import find, list_runs
from basereward.sweeps.launcher import (
    CellJob,
    CellOutcome,
    Launcher,
    LostWorkerError,
    Resources,
    check_launcher,
    load_launcher,
)
from basereward.sweeps.scheduling.cell_queue import CellQueue
from basereward.sweeps.scheduling.resources import needed_resources
from basereward.sweeps.scheduling.scheduler import Scheduler

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store", "forked_workers")]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = list(short_names("launchers"))
SETTINGS: dict[str, dict[str, Any]] = {"slurm": {"cluster": "local", "retries": 0}, "ray": {"retries": 0}}
each_launcher = pytest.mark.parametrize("name", LAUNCHERS)
SWEEP_ID = "20260314-153012-9f2c41"
# The first learning rate makes the weights infinite, so that training fails.
RATES = "grid.optimizer.lr={wild: 1e30, tame: 1e-3}"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def cells_of(*overrides: str) -> list[Cell]:
    """Return cells of a few steps on a few text rows."""
    return load_cells("basereward", profile="tests/small.yaml", overrides=overrides)


def test_local_launcher_exists() -> None:
    """A sweep uses it by default."""
    assert "local" in LAUNCHERS


@pytest.fixture
def launcher(name: str, request: pytest.FixtureRequest) -> Launcher:
    """Return the launcher of a name, on a cluster of this machine: the jobs of SLURM are processes here."""
    settings = SETTINGS.get(name, {})
    if name == "ray":
        settings = {**settings, "address": request.getfixturevalue("ray_address")}
    return load_launcher(name, **settings)


def train_all(launcher: Launcher, jobs: Sequence[CellJob]) -> dict[str, Future[dict[str, Any]]]:
    """Submit every job when there is room for it, and return the done futures by the names of the cells."""
    futures: dict[str, Future[dict[str, Any]]] = {}
    for job in jobs:
        resources = needed_resources(job.cell.recipe)
        while not launcher.has_room(resources):
            time.sleep(0.05)
        futures[job.cell.name] = launcher.submit(job, resources)
    for future in futures.values():
        future.exception()
    return futures


@each_launcher
def test_every_job_has_an_outcome_and_a_failed_cell_does_not_stop_the_others(launcher: Launcher) -> None:
    """The failed cell has a message, and the finished one has the result of its run, which is a child of the sweep."""
    jobs = [CellJob(cell, SWEEP_ID) for cell in cells_of(RATES)]
    try:
        launcher.prepare([needed_resources(job.cell.recipe) for job in jobs])
        futures = train_all(launcher, jobs)
    finally:
        launcher.close()
    assert futures.keys() == {"lr=wild", "lr=tame"}
    failure = futures["lr=wild"].exception()
    assert isinstance(failure, RunError)
    assert not isinstance(failure, LostWorkerError)
    assert "The rows of the step: " in str(failure)
    result = futures["lr=tame"].result()
    run = find(result["run_id"])
    assert (run.state, run.name, run.status["parent"]) == ("finished", "lr=tame", SWEEP_ID)
    assert 0 <= result["metrics"]["test/numbers/pair_accuracy"] <= 1
    launcher.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt: a shell starts background jobs, such as these tests may be, with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@each_launcher
def test_cancel_stops_the_running_cell(launcher: Launcher) -> None:
    """After `cancel` and `close` the run is killed and can be resumed."""
    (cell,) = cells_of("trainer.steps=5000", "trainer.checkpoint_every=1")
    launcher.prepare([needed_resources(cell.recipe)])
    interrupt = threading.Thread(target=_interrupt_after_a_checkpoint, daemon=True)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        train_all(launcher, [CellJob(cell, SWEEP_ID)])
    launcher.cancel()
    launcher.close()
    interrupt.join()
    (run,) = list_runs()
    # A job of SLURM ends by itself.
    while run.state == "running":
        time.sleep(0.05)
    assert run.state == "killed"
    assert (run.checkpoints / "last.ckpt").exists()


def _interrupt_after_a_checkpoint(limit_s: float = 600.0) -> None:
    """Raise KeyboardInterrupt in the main thread when a run has a checkpoint or the time limit is reached."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not any((run.checkpoints / "last.ckpt").exists() for run in list_runs()):
        time.sleep(0.05)
    # A real signal: it also ends a system call in which the main thread waits for the worker.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


@each_launcher
def test_cancel_and_close_without_a_job_do_nothing(launcher: Launcher) -> None:
    """Both may be called before the first job and after the last one."""
    launcher.cancel()
    launcher.close()
    launcher.close()
    assert list_runs() == []


# The sweep and its launcher


class Scripted:
    """A launcher that has room for two cells, returns a scripted outcome for every job, the last submitted first, and
    records the jobs and whether their cells were locked."""

    spans_machines = False
    runs_here = True
    gpu_memory = None

    def __init__(self, failures: dict[str, list[Exception]] | None = None, *, retries: int = 0) -> None:
        self.failures = failures or {}
        self.retries = retries
        self.jobs: list[CellJob] = []
        self.locked_elsewhere: list[bool] = []
        self.running: list[tuple[CellJob, Future[dict[str, Any]]]] = []

    def prepare(self, needed: Sequence[Resources]) -> None: ...

    def has_room(self, resources: Resources) -> bool:
        """Two cells at a time."""
        return len(self.running) < 2

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Keep the job until somebody waits for it."""
        self.jobs.append(job)
        other = CellQueue([job.cell], sweep_id="other")
        self.locked_elsewhere.append(other.take() is None)
        other.close()
        future: Future[dict[str, Any]] = Future()
        self.running.append((job, future))
        return future

    def wait(self, futures: Any, limit_s: float | None) -> list[Future[dict[str, Any]]]:
        """End the last submitted job."""
        job, future = self.running.pop()
        if failures := self.failures.get(job.cell.name):
            future.set_exception(failures.pop(0))
        else:
            future.set_result({"run_id": f"run of {job.cell.name}", "metrics": {}})
        return [future]

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def run_scripted(cells: Sequence[Cell], launcher: Scripted) -> list[dict[str, Any]]:
    """Run cells by the scheduler, and return their rows."""
    queue = CellQueue(cells, sweep_id=SWEEP_ID)
    Scheduler(queue, launcher, wait=launcher.wait).run()
    return queue.rows


def test_launcher_may_return_outcomes_in_any_order() -> None:
    """The rows are in the order of the cells, every job runs once, and another sweep gets none of the cells in the
    meantime."""
    cells = cells_of("grid.optimizer.lr={a: 1e-3, b: 1e-4, c: 1e-5}")
    launcher = Scripted({"lr=b": [RunError("out of memory")]})
    rows = run_scripted(cells, launcher)
    assert [(row["name"], row["status"]) for row in rows] == [
        ("lr=a", "finished"),
        ("lr=b", "failed"),
        ("lr=c", "finished"),
    ]
    assert rows[1]["error"] == "out of memory"
    assert rows[1]["run_id"] is None
    assert [(job.cell.name, job.parent, job.resume) for job in launcher.jobs] == [
        ("lr=a", SWEEP_ID, None),
        ("lr=b", SWEEP_ID, None),
        ("lr=c", SWEEP_ID, None),
    ]
    assert all(launcher.locked_elsewhere)


def test_lost_cell_is_submitted_again_as_often_as_the_launcher_says() -> None:
    """A cell whose machine is lost twice is trained at the third attempt; one more loss is a failure. A cell that fails
    by itself is not repeated."""
    cells = cells_of("grid.optimizer.lr={a: 1e-3, b: 1e-4, c: 1e-5}")
    failures: dict[str, list[Exception]] = {
        "lr=a": [LostWorkerError("gone")] * 2,
        "lr=b": [LostWorkerError("gone")] * 3,
        "lr=c": [RunError("not finite")],
    }
    launcher = Scripted(failures, retries=2)
    rows = run_scripted(cells, launcher)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed"]
    assert Counter(job.cell.name for job in launcher.jobs) == {"lr=a": 3, "lr=b": 3, "lr=c": 1}


def test_cells_of_another_sweep_come_last_and_are_waited_for() -> None:
    """The lock of the first cell is held elsewhere; the second is trained meanwhile, and then the first."""
    cells = cells_of("grid.optimizer.lr={a: 1e-3, b: 1e-4}")
    other = CellQueue(cells[:1], sweep_id="other")
    assert other.take() is not None
    launcher = Scripted()

    def wait(futures: Any, limit_s: float | None) -> list[Future[dict[str, Any]]]:
        if launcher.running:
            return launcher.wait(futures, limit_s)
        # The other sweep gives up.
        other.close()
        time.sleep(limit_s or 0)
        return []

    queue = CellQueue(cells, sweep_id=SWEEP_ID)
    Scheduler(queue, launcher, wait=wait).run()
    assert [job.cell.name for job in launcher.jobs] == ["lr=b", "lr=a"]
    assert [row["status"] for row in queue.rows] == ["finished", "finished"]


def test_closed_queue_releases_its_cells() -> None:
    """Otherwise no other sweep could train them."""
    cells = cells_of(RATES)
    queue = CellQueue(cells, sweep_id=SWEEP_ID)
    assert queue.take() is not None
    queue.close()
    assert len(run_scripted(cells, Scripted())) == 2


def test_outcome_needs_either_a_result_or_an_error() -> None:
    """Neither of them and both of them are refused."""
    job = CellJob(cells_of()[0], SWEEP_ID)
    for fields in ({}, {"result": {}, "error": "no memory"}):
        with pytest.raises(ValueError, match="basereward"):
            CellOutcome(job, **fields)


# Which launcher


@pytest.mark.parametrize(
    ("name", "message"),
    [("locl", "did you mean 'local'"), ("tests.sweeps.test_launchers.Scripted", "--trust"), ("os.system", "--trust")],
)
def test_unknown_or_untrusted_launcher_is_refused(name: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 before any training; a class outside the package needs the caller's trust."""
    assert main(["sweep", "basereward", "--profile", "tests/small.yaml", "--on", name]) == 2
    assert message in capfd.readouterr().err
    assert list_runs() == []


def test_user_launcher_is_loaded_by_its_dotted_path() -> None:
    """The class must be trusted and have the members of a launcher."""
    with trusting():
        assert type(load_launcher("tests.sweeps.test_launchers.Scripted")).__name__ == "Scripted"
        with pytest.raises(RecipeError, match="prepare, has_room, submit, cancel, close"):
            load_launcher("fractions.Fraction")
    with pytest.raises(RecipeError, match="cancel"):
        check_launcher(type("Half", (), {"submit": len, "prepare": len, "close": len})())
