"""Test the contract of every launcher in the folder of launchers, and how the sweep handles an invalid launcher."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from basereward.sweeps.cell_queue import CellQueue, run_cells

from basereward.cli import main
from basereward.errors import RecipeError, RunError
from basereward.recipe import Cell, load_cells
from basereward.recipe.checks.targets import short_names
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import find, list_runs
from basereward.sweeps.launcher import CellJob, CellOutcome, check_launcher, load_launcher

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = list(short_names("launchers"))
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


@each_launcher
def test_every_job_has_an_outcome_and_a_failed_cell_does_not_stop_the_others(name: str) -> None:
    """The failed cell has a message, and the finished one has the result of its run, which is a child of the sweep."""
    launcher = load_launcher(name)
    jobs = [CellJob(cell, SWEEP_ID) for cell in cells_of(RATES)]
    launcher.prepare()
    try:
        outcomes = {outcome.job.cell.name: outcome for outcome in launcher.run(jobs)}
    finally:
        launcher.close()
    assert outcomes.keys() == {"lr=wild", "lr=tame"}
    assert outcomes["lr=wild"].result is None
    assert "The rows of the step: " in (outcomes["lr=wild"].error or "")
    result = outcomes["lr=tame"].result
    assert result is not None
    run = find(result["run_id"])
    assert (run.state, run.name, run.status["parent"]) == ("finished", "lr=tame", SWEEP_ID)
    assert 0 <= result["metrics"]["test/numbers/pair_accuracy"] <= 1
    assert list(launcher.run([])) == []
    launcher.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt: a shell starts background jobs, such as these tests may be, with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@each_launcher
def test_cancel_stops_the_running_cell(name: str) -> None:
    """`run` raises KeyboardInterrupt; after `cancel` and `close` the run is killed and can be resumed."""
    launcher = load_launcher(name)
    (cell,) = cells_of("trainer.steps=5000", "trainer.checkpoint_every=1")
    interrupt = threading.Thread(target=_interrupt_after_a_checkpoint, daemon=True)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        list(launcher.run([CellJob(cell, SWEEP_ID)]))
    launcher.cancel()
    launcher.close()
    interrupt.join()
    (run,) = list_runs()
    assert run.status["state"] == "killed"
    assert (run.checkpoints / "last.ckpt").exists()


def _interrupt_after_a_checkpoint(limit_s: float = 600.0) -> None:
    """Raise KeyboardInterrupt in the main thread when a run has a checkpoint or the time limit is reached."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not any((run.checkpoints / "last.ckpt").exists() for run in list_runs()):
        time.sleep(0.05)
    # A real signal: it also ends a system call in which the main thread waits for the worker.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


@each_launcher
def test_cancel_and_close_without_a_job_do_nothing(name: str) -> None:
    """Both may be called before the first job and after the last one."""
    launcher = load_launcher(name)
    launcher.cancel()
    launcher.close()
    launcher.close()
    assert list_runs() == []


# The sweep and its launcher


class Scripted:
    """A launcher that returns a scripted outcome for every job, and records the jobs and whether their cells were
    locked."""

    def __init__(self, errors: dict[str, str] | None = None) -> None:
        self.errors = errors or {}
        self.jobs: list[CellJob] = []
        self.locked_elsewhere: list[bool] = []

    def prepare(self) -> None: ...

    def run(self, jobs: Iterable[CellJob]) -> Iterator[CellOutcome]:
        """Take all jobs before the first outcome, and return the last one first, as a cluster may do."""
        all_jobs = list(jobs)
        self.jobs += all_jobs
        other = CellQueue([job.cell for job in all_jobs], sweep_id="other")
        self.locked_elsewhere.append(not list(other.jobs(wait=False)))
        for job in reversed(all_jobs):
            error = self.errors.get(job.cell.name)
            result: dict[str, Any] = {"run_id": f"run of {job.cell.name}", "metrics": {}}
            yield CellOutcome(job, error=error) if error else CellOutcome(job, result=result)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Forgetful(Scripted):
    """A launcher that loses the outcome of the first job."""

    def run(self, jobs: Iterable[CellJob]) -> Iterator[CellOutcome]:
        """Return all outcomes but one."""
        yield from list(super().run(jobs))[:-1]


def test_launcher_may_return_outcomes_in_any_order() -> None:
    """The rows are in the order of the cells, every job runs once, and another sweep gets none of the cells in the
    meantime."""
    cells = cells_of("grid.optimizer.lr={a: 1e-3, b: 1e-4, c: 1e-5}")
    launcher = Scripted({"lr=b": "out of memory"})
    rows = run_cells(cells, launcher=launcher, sweep_id=SWEEP_ID)
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
    assert launcher.locked_elsewhere[0]


def test_lost_outcome_is_an_error_and_unlocks_its_cell() -> None:
    """The message names the cell; without the error, the missing cell would look like one that is not in the grid."""
    cells = cells_of(RATES)
    with pytest.raises(RunError, match=r"Forgetful.*lr=wild"):
        run_cells(cells, launcher=Forgetful(), sweep_id=SWEEP_ID)
    assert len(run_cells(cells, launcher=Scripted(), sweep_id=SWEEP_ID)) == 2


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
        with pytest.raises(RecipeError, match="prepare, run, cancel, close"):
            load_launcher("fractions.Fraction")
    with pytest.raises(RecipeError, match="cancel"):
        check_launcher(type("Half", (), {"run": len, "prepare": len, "close": len})())
