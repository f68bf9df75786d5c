"""Test the view of a sweep, what runs where, how far, at what cost and until when, and the index of runs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import RunError
from basereward.io.processes import identify_process
from basereward.recipe import Experiment, load_experiment, recipe_sha256, recipe_yaml
from basereward.runs.run_folder import RunFolder
from basereward.runs.run_index import RunIndex
from basereward.sweeps.launcher import load_launcher
from basereward.sweeps.saved_sweep import save_sweep, sweep_grid
from basereward.sweeps.scheduling.status import sweep_status

ROOT = Path(__file__).resolve().parents[2]
# Its process is on this machine and gone.
GONE = {"pid": 2**22 + 1, "started": "1"}


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Return four cells that differ by their learning rate."""
    monkeypatch.chdir(ROOT)
    return load_experiment(
        "basereward", profile="tests/small.yaml", overrides=["grid.optimizer.lr={a: 1e-3, b: 1e-4, c: 1e-5, d: 1e-6}"]
    )


@pytest.fixture
def sweep(experiment: Experiment) -> RunFolder:
    """Return the folder of a sweep whose process is this one."""
    folder = RunFolder.create(sweep_grid(experiment), recipe_sha256="", name="rates", kind="sweep")
    save_sweep(folder, experiment, load_launcher("local"))
    return folder


def begin(experiment: Experiment, number: int, *, step: int, **status: Any) -> RunFolder:
    """Write the run of a cell that trains on four GPUs since 100 seconds, and has recorded the loss of a step."""
    cell = experiment.cells[number]
    run = RunFolder.create(recipe_yaml(cell.recipe), recipe_sha256=recipe_sha256(cell.recipe), name=cell.name)
    run.journal.folder.mkdir()
    start = {"kind": "start", "uri": "sqlite:///s.db", "experiment": "e", "name": "n", "parent": None, "tags": {}}
    loss = {"kind": "metrics", "step": step, "time": 0, "values": {"train/loss": 0.5}}
    # Behind it, so that it is not the last record that is read.
    late = {"kind": "metrics", "step": step + 3, "time": 0, "values": {"val/pair_accuracy": 0.5}}
    run.journal.append([start | {"time": 0}, loss, late])
    now = time.time()
    devices = {"devices": "4 x NVIDIA H100", "num_devices": 4}
    place = {"host": "node-7", "job": "12_3", **devices, "steps": 200, "first_step": 0, "began": now - 100}
    content = {**run.status, "started": now - 100, "place": place, **status}
    (run.path / "status.json").write_text(json.dumps(content))
    return run


def test_cells_by_what_they_are_doing(experiment: Experiment, sweep: RunFolder) -> None:
    """A cell at step 50 of 200 after 100 s needs 300 s more and has cost 400 GPU seconds. A whole cell takes 400 s at
    this pace, so the waiting and the killed one end 1,100 s from now, one at a time."""
    finished = begin(experiment, 0, step=200, seconds=3600.0)
    finished.write_result({"metrics": {"test/pair_accuracy": 0.75}})
    finished.mark("finished")
    begin(experiment, 1, step=50)
    begin(experiment, 3, step=10, process={**identify_process(), **GONE}, seconds=0.0)
    status = sweep_status("rates")
    assert status["sweep_id"] == sweep.run_id
    cells = status["cells"]
    assert [cell["state"] for cell in cells] == ["finished", "running", "waiting", "killed"]
    assert cells[0]["score"] == 0.75
    running = cells[1]
    assert (running["host"], running["job"], running["devices"]) == ("node-7", "12_3", "4 x NVIDIA H100")
    assert (running["step"], running["steps"]) == (50, 200)
    assert running["remaining_s"] == pytest.approx(300, rel=0.1)
    assert running["device_hours"] == pytest.approx(400 / 3600, rel=0.1)
    assert cells[2]["run_id"] is None
    assert (cells[3]["step"], cells[3]["remaining_s"]) == (10, None)
    assert (status["finished"], status["failed"]) == (1, 0)
    assert status["remaining_s"] == pytest.approx(1100, rel=0.1)
    assert status["device_hours"] == pytest.approx(sum(cell["device_hours"] or 0 for cell in cells))


def test_status_command(experiment: Experiment, sweep: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line for each cell, JSON has every field, and the id of the sweep names it too."""
    begin(experiment, 1, step=50)
    assert main(["sweep", sweep.run_id, "--status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)["status"]
    assert [cell["state"] for cell in status["cells"]] == ["waiting", "running", "waiting", "waiting"]
    assert main(["sweep", "rates", "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("lr=b"))
    for part in ("running", "node-7", "12_3", "4 x NVIDIA H100", "50 of 200"):
        assert part in line
    assert sum(line.startswith("lr=") for line in lines) == 4
    assert main(["ls", "runs", "--state", "running", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    (listed,) = (run for run in runs if run["kind"] == "run")
    assert (listed["host"], listed["devices"], listed["progress"]) == ("node-7", "4 x NVIDIA H100", "50 of 200")
    assert listed["remaining_s"] == pytest.approx(300, rel=0.1)
    assert main(["ls", "runs"]) == 0
    assert "50 of 200" in capsys.readouterr().out


def test_finished_run_of_a_cell_counts_before_a_later_one(experiment: Experiment, sweep: RunFolder) -> None:
    """A second run of the same recipe that failed does not hide the result."""
    first = begin(experiment, 0, step=200, created=1000.0)
    first.write_result({"metrics": {"test/pair_accuracy": 0.75}})
    first.mark("finished")
    begin(experiment, 0, step=10).mark("failed", error="out of memory")
    cell = sweep_status("rates")["cells"][0]
    assert (cell["run_id"], cell["state"]) == (first.run_id, "finished")


def test_no_such_sweep(sweep: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with the nearest name; a sweep of an earlier version, which did not keep its cells, is none."""
    assert main(["sweep", "rate", "--status"]) == 2
    assert "rates" in capsys.readouterr().err
    (sweep.path / "sweep.json").unlink()
    with pytest.raises(RunError, match="rates"):
        sweep_status("rates")


def test_index_follows_the_folder_of_runs(experiment: Experiment) -> None:
    """It finds runs that begin later, drops those that are removed, and leaves out sweeps and what is no run."""
    index = RunIndex()
    sha256 = recipe_sha256(experiment.cells[0].recipe)
    assert index.runs_of(sha256) == []
    first = begin(experiment, 0, step=1, created=1000.0)
    RunFolder.create("grid", recipe_sha256=sha256, name="rates", kind="sweep")
    (first.path.parent / "notes").mkdir()
    assert index.runs_of(sha256) == [first]
    second = begin(experiment, 0, step=1, created=2000.0)
    begin(experiment, 1, step=1)
    assert index.runs_of(sha256) == [second, first]
    shutil.rmtree(first.path)
    assert index.runs_of(sha256) == [second]
    assert index.runs_of("0" * 64) == []
