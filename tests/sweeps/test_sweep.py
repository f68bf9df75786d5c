"""Test sweeps with real processes that are killed with SIGKILL: every cell runs once, whatever is killed or fails."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from basereward.cli import main
from basereward.recipe import recipe_from_yaml
from basereward.runs.run_folder import RunFolder, list_runs
from tests.helpers.forked_command import ForkedCommand

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROFILE = str(ROOT / "tests" / "small.yaml")
SWEEP = ["sweep", "seeds", "--profile", PROFILE, "trainer.steps=12", "trainer.checkpoint_every=1"]
SEEDS = """\
# Three seeds of one recipe.
include: basereward
seeds: [0, 1, 2]
"""
RATES = """\
# A learning rate that no training survives, and one that it does.
include: basereward
grid:
  optimizer.lr: {wild: 1e30, tame: 1e-3}
"""


@dataclass(frozen=True)
class Place:
    """The folder with the experiments and runs of this file's sweeps."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        names = {"RUNS": "runs", "CACHE": "cache", "EXPERIMENTS": "experiments"}
        folders = {f"BASEREWARD_{name}": str(self.folder / folder) for name, folder in names.items()}
        return folders | {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}"}

    def runs(self) -> list[RunFolder]:
        """Return the runs, oldest first."""
        return list_runs(root=self.folder / "runs")[::-1]

    def sweep(self, log: Path) -> ForkedCommand:
        """Start the sweep of three seeds with its standard error in a file."""
        with log.open("w") as errors:
            environment = os.environ | self.environment
            return ForkedCommand(*SWEEP, "--json", cwd=ROOT, environment=environment, errors=errors)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Place:
    """Add two experiments to the project's."""
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(empty_store, folder / "mlflow.db")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    (folder / "experiments" / "seeds.yaml").write_text(SEEDS)
    (folder / "experiments" / "rates.yaml").write_text(RATES)
    return Place(folder)


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Set the environment of `place` for commands in this process."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


@dataclass(frozen=True)
class Stopped:
    """A sweep that was killed while its second cell trained."""

    first: str
    second: str
    survived_s: float


@pytest.fixture(scope="module")
def stopped(place: Place) -> Stopped:
    """Kill only the sweep's process after the second cell has written a checkpoint."""
    log = place.folder / "killed.log"
    process = place.sweep(log)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        runs = place.runs()
        if len(runs) == 2 and (runs[1].checkpoints / "last.ckpt").exists():
            pids = cells_of(process.pid)
            assert len(pids) == 2
            process.kill()
            process.wait()
            return Stopped(runs[0].run_id, runs[1].run_id, sum(map(wait_for_end, pids)))
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the second cell has not trained: {log.read_text()}")


@pytest.fixture(scope="module")
def finished(place: Place, stopped: Stopped) -> tuple[dict[str, Any], str]:
    """Return the result of the next call and its standard error."""
    log = place.folder / "finished.log"
    process = place.sweep(log)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, log.read_text()
    return json.loads(printed), log.read_text()


def cells_of(sweep: int) -> list[int]:
    """Return the ids of the process that a sweep has started for its cells, and of that of the cell which runs."""
    pids = []
    # A process may end while it is looked at.
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(sweep).children(recursive=True):
            if "basereward.sweeps.cell_worker" in process.cmdline():
                pids.append(process.pid)
    return pids


def wait_for_end(pid: int, *, limit_s: float = 15.0) -> float:
    """Return the seconds until a process ends; at the limit kill it and return the limit."""
    start = time.monotonic()
    while time.monotonic() - start < limit_s:
        if not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes():
            return time.monotonic() - start  # the process has ended or is a zombie
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return limit_s


def test_killed_sweep_ends_its_cell(stopped: Stopped, place: Place) -> None:
    """The cell's process ends within seconds, and the first run is finished."""
    assert stopped.survived_s < 5
    assert place.runs()[0].state == "finished"


def test_next_call_resumes_the_killed_sweep(
    finished: tuple[dict[str, Any], str], stopped: Stopped, place: Place
) -> None:
    """The finished cell is skipped, the stopped cell resumes from its checkpoint as the same run, and the third cell
    runs."""
    result, log = finished
    assert [cell["name"] for cell in result["cells"]] == ["seed=0", "seed=1", "seed=2"]
    assert [cell["status"] for cell in result["cells"]] == ["skipped", "finished", "finished"]
    assert [cell["run_id"] for cell in result["cells"]][:2] == [stopped.first, stopped.second]
    assert all(0 <= cell["metrics"]["test/numbers/pair_accuracy"] <= 1 for cell in result["cells"])
    assert [run.run_id for run in place.runs()] == [cell["run_id"] for cell in result["cells"]]
    assert [run.state for run in place.runs()] == ["finished"] * 3

    records = [record for record, _ in place.runs()[1].journal.read(0)]
    assert [record["kind"] for record in records].count("reopen") == 1
    steps = [record["step"] for record in records if "train/loss" in record.get("values", {})]
    assert steps == list(range(1, 13))
    assert "cell 2 of 3: seed=1" in log.splitlines()
    assert any(line.startswith("step 12 of 12, ") for line in log.splitlines())


def test_seeds_are_an_axis(finished: tuple[dict[str, Any], str], place: Place) -> None:
    """Every seed has a run of its own with its seeds and different metrics."""
    recipes = [recipe_from_yaml(run.recipe) for run in place.runs()]
    assert [(recipe.seeds.data, recipe.seeds.init, recipe.seeds.dropout) for recipe in recipes] == [
        (0, 0, 0),
        (1, 1, 1),
        (2, 2, 2),
    ]
    margins = {cell["metrics"]["test/numbers/mean_margin"] for cell in finished[0]["cells"]}
    assert len(margins) == 3


def test_call_with_all_cells_finished_skips_them(
    finished: tuple[dict[str, Any], str], here: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every cell is reported as skipped, no run is added, and the metrics are unchanged."""
    before = here.runs()
    assert main(SWEEP) == 0
    printed = capfd.readouterr()
    assert here.runs() == before
    assert printed.out.splitlines()[-1] == "3 skipped"
    for number, seed in enumerate((0, 1, 2), start=1):
        start = f"cell {number} of 3: seed={seed} skipped, test/pair_accuracy 0."
        assert any(line.startswith(start) for line in printed.err.splitlines())
    assert main([*SWEEP, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    metrics = [cell["metrics"] for cell in finished[0]["cells"]]
    assert [cell["metrics"] for cell in result["cells"]] == metrics
    assert {cell["status"] for cell in result["cells"]} == {"skipped"}


def test_mlflow_runs_are_children_of_their_sweep(finished: tuple[dict[str, Any], str], here: Place) -> None:
    """All runs are in one experiment and finished, and the resumed sweep keeps its run."""
    client = MlflowClient(here.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("seeds")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (sweep,) = [run for run in runs if run not in children]
    assert sweep.data.tags["basereward.run_id"] == finished[0]["sweep_id"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {sweep.info.run_id}
    assert {run.data.tags["basereward.run_id"] for run in children} == {run.run_id for run in here.runs()}
    assert len(children) == 3
    assert sweep.info.run_name == "seeds"
    assert sorted(run.info.run_name for run in children) == ["seed=0", "seed=1", "seed=2"]
    for run in children:
        assert f"seed={run.data.tags['axis.seed']}" == f"seed={run.data.params['axis.seed']}" == run.info.run_name
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.usefixtures("forked_workers")
def test_failed_cell_is_named_and_the_others_run(here: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """The command exits with 1, and the result has the reason and the run of the failed cell."""
    before = len(here.runs())
    assert main(["sweep", "rates", "--profile", PROFILE, "--json"]) == 1
    printed = capfd.readouterr()
    wild, tame = json.loads(printed.out)["cells"]
    assert (wild["name"], wild["status"], wild["metrics"]) == ("lr=wild", "failed", {})
    assert "The rows of the step: " in wild["error"]
    assert wild["run_id"] in wild["error"]
    assert "cell 1 of 2: lr=wild failed" in printed.err.splitlines()
    assert "Traceback" not in printed.err
    assert (tame["name"], tame["status"]) == ("lr=tame", "finished")
    assert [run.state for run in here.runs()[before:]] == ["failed", "finished"]
