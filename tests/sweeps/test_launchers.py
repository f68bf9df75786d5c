"""What every launcher promises, found by listing the folder of launchers; and what the sweep does with a wrong one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import RecipeError, RunError
from basereward.recipe import Cell, load_cells
from basereward.recipe.checks.targets import short_names
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import find, list_runs
from basereward.sweeps.cell_queue import CellQueue, run_cells
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
    """Cells of a few steps on a few rows of text."""
    return load_cells("basereward", profile="tests/small.yaml", overrides=overrides)


def test_local_is_a_launcher() -> None:
    """The one that a sweep takes by default."""
    assert "local" in LAUNCHERS


@each_launcher
def test_every_job_has_an_outcome_and_a_failed_cell_does_not_stop_the_others(name: str) -> None:
    """The failed cell has a message, the finished one the result of its run, which is a child of the sweep."""
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
    """A KeyboardInterrupt comes out of `run`; after `cancel` and `close` the run is killed, and can be resumed."""
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
    """Raises KeyboardInterrupt in the main thread, when a run has a checkpoint or the time is over."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not any((run.checkpoints / "last.ckpt").exists() for run in list_runs()):
        time.sleep(0.05)
    # A real signal: it also ends a system call in which the main thread waits for the worker.
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


@each_launcher
def test_without_a_job_nothing_is_left_to_close(name: str) -> None:
    """`cancel` and `close` do nothing before the first job and after the last one."""
    launcher = load_launcher(name)
    launcher.cancel()
    launcher.close()
    launcher.close()
    assert list_runs() == []


# The sweep and its launcher


class Scripted:
    """Returns a made outcome for every job; keeps the jobs, and whether their cells were locked."""

    def __init__(self, errors: dict[str, str] | None = None) -> None:
        self.errors = errors or {}
        self.jobs: list[CellJob] = []
        self.locked_elsewhere: list[bool] = []

    def prepare(self) -> None: ...

    def run(self, jobs: Iterable[CellJob]) -> Iterator[CellOutcome]:
        """Takes all jobs before it returns the first outcome, the last one first, as a cluster may."""
        taken = list(jobs)
        self.jobs += taken
        other = CellQueue([job.cell for job in taken], sweep_id="other")
        self.locked_elsewhere.append(not list(other.jobs(wait=False)))
        for job in reversed(taken):
            error = self.errors.get(job.cell.name)
            result: dict[str, Any] = {"run_id": f"run of {job.cell.name}", "metrics": {}}
            yield CellOutcome(job, error=error) if error else CellOutcome(job, result=result)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Forgetful(Scripted):
    """Loses the outcome of the first job."""

    def run(self, jobs: Iterable[CellJob]) -> Iterator[CellOutcome]:
        """All outcomes but one."""
        yield from list(super().run(jobs))[:-1]


def test_a_launcher_may_run_all_cells_at_once_and_return_them_in_any_order() -> None:
    """Rows are in the order of the cells, every job runs once, and another sweep gets none of the cells meanwhile."""
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


def test_a_lost_outcome_is_an_error_and_its_cell_is_free_again() -> None:
    """The message names the cell; a cell that is missing in the result would pass for one that is not in the grid."""
    cells = cells_of(RATES)
    with pytest.raises(RunError, match=r"Forgetful.*lr=wild"):
        run_cells(cells, launcher=Forgetful(), sweep_id=SWEEP_ID)
    assert len(run_cells(cells, launcher=Scripted(), sweep_id=SWEEP_ID)) == 2


def test_an_outcome_is_a_result_or_an_error() -> None:
    """Neither is a lost result; both is a mistake too."""
    job = CellJob(cells_of()[0], SWEEP_ID)
    for given in ({}, {"result": {}, "error": "no memory"}):
        with pytest.raises(ValueError, match="basereward"):
            CellOutcome(job, **given)


# Which launcher


@pytest.mark.parametrize(
    ("name", "message"),
    [("locl", "did you mean 'local'"), ("tests.sweeps.test_launchers.Scripted", "--trust"), ("os.system", "--trust")],
)
def test_an_unknown_or_foreign_launcher_is_refused(name: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is trained, with 2; a class from outside the package needs the caller's trust."""
    assert main(["sweep", "basereward", "--profile", "tests/small.yaml", "--on", name]) == 2
    assert message in capfd.readouterr().err
    assert list_runs() == []


def test_a_class_of_the_user_is_found_by_its_dotted_path() -> None:
    """If it is trusted and has the members of a launcher."""
    with trusting():
        assert type(load_launcher("tests.sweeps.test_launchers.Scripted")).__name__ == "Scripted"
        with pytest.raises(RecipeError, match="prepare, run, cancel, close"):
            load_launcher("fractions.Fraction")
    with pytest.raises(RecipeError, match="cancel"):
        check_launcher(type("Half", (), {"run": len, "prepare": len, "close": len})())
