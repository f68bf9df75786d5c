"""Test a cell whose process gets SIGTERM, as where a machine is taken away: it saves and goes on with the same bits."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from basereward.recipe import load_cells
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.sweeps.cell_worker import train_task
from basereward.sweeps.launcher import CellJob
from tests.helpers.forked_program import ForkedProgram

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

ROOT = Path(__file__).resolve().parents[2]
SWEEP_ID = "20260314-153012-9f2c41"
# No checkpoint is due before the last step.
OVERRIDES = ["trainer.steps=60", "trainer.validations=1"]
WORKER = """
from basereward.io.interrupts import Terminated, termination
termination.install()
try:
    train_task(sys.argv[1], parent=sys.argv[2])
except Terminated:
    print("terminated", flush=True)
"""


def measured(result: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of the test."""
    return {name: value for name, value in result["metrics"].items() if name.startswith("test/")}


def test_cell_saves_at_sigterm_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is of the step at which the signal came. The run goes on from there, and ends with the bits of one
    that was never stopped."""
    monkeypatch.chdir(ROOT)
    (cell,) = load_cells("basereward", profile="tests/small.yaml", overrides=OVERRIDES)
    task = CellJob(cell, SWEEP_ID).task
    worker = ForkedProgram("basereward.sweeps.cell_worker", WORKER, task, SWEEP_ID)
    assert worker.stdout.readline() == "ready\n"
    worker.stdin.write("\n")
    worker.stdin.flush()
    run = wait_for_step(3)
    assert not (run.checkpoints / "last.ckpt").exists()
    worker.send_signal(signal.SIGTERM)
    printed, _ = worker.communicate(timeout=120)
    assert printed == "terminated\n"
    assert run.state == "killed"
    assert (run.checkpoints / "last.ckpt").exists()
    resumed = train_task(task, parent=SWEEP_ID)
    assert resumed["run_id"] == run.run_id
    assert 3 <= run.status["place"]["first_step"] < 60
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "undisturbed"))
    undisturbed = train_task(task, parent=SWEEP_ID)
    assert undisturbed["run_id"] != run.run_id
    assert measured(resumed) == measured(undisturbed)


def wait_for_step(step: int) -> RunFolder:
    """Return the run when it has recorded a step."""
    while True:
        for run in list_runs():
            if run.journal.last_step() >= step:
                return run
        time.sleep(0.005)
