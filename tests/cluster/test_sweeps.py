"""Test sweeps on Ray and SLURM: the hashes and bits of one machine, also after kills, and errors before the start."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from basereward.cli import main
from basereward.cluster.shared_place import Sentinel
from basereward.recipe import Experiment, load_cells, load_experiment
from basereward.runs.run_folder import RunFolder, list_runs, runs_root
from basereward.sweeps.cell_worker import train_task
from basereward.sweeps.launcher import CellJob, load_launcher
from basereward.sweeps.launchers import ray as ray_launcher
from basereward.sweeps.scheduling.scheduler import run_cells
from basereward.sweeps.sweep import sweep
from tests.helpers import cell_tasks
from tests.helpers.ray_servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

ROOT = Path(__file__).resolve().parents[2]
SWEEP_ID = "20260314-153012-9f2c41"
SWEEP = ["sweep", "basereward", "--profile", "tests/small.yaml"]
# The partitions of a made cluster: two machines with eight GPUs, and four without.
PARTITIONS = "cpu*|4|(null)\\ngpu|2|gpu:h100:8(S:0-1)\\n"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """Return two cells with a checkpoint after each step."""
    overrides = ["trainer.steps=12", "trainer.checkpoint_every=1", "trainer.validations=1"]
    return load_experiment(
        "basereward",
        profile=str(ROOT / "tests/small.yaml"),
        overrides=[*overrides, "grid.optimizer.lr={a: 1e-3, b: 1e-4}"],
    )


def measured(metrics: dict[str, Any]) -> str:
    """Return the metrics of the test as JSON, in which two numbers are the same text only with the same bits."""
    return json.dumps({name: value for name, value in metrics.items() if name.startswith("test/")}, sort_keys=True)


def outcome(run: RunFolder, metrics: dict[str, Any]) -> tuple[str, str, str]:
    """Return the state of a run, the hash of its recipe and the metrics of its test."""
    return run.state, run.status["recipe_sha256"], measured(metrics)


@pytest.fixture(scope="module")
def undisturbed(
    experiment: Experiment, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> dict[str, tuple[str, str, str]]:
    """Train the cells one after another in this process, and return the outcome of each by its name."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    outcomes = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
        patch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for cell in experiment.cells:
            result = train_task(CellJob(cell, SWEEP_ID).task, parent=SWEEP_ID)
            outcomes[cell.name] = outcome(RunFolder(folder / "runs" / result["run_id"]), result["metrics"])
    return outcomes


def kill_a_worker(killed: list[int]) -> None:
    """Kill the process that the cluster has started for a cell, when the cell has a checkpoint."""
    while not killed:
        for run in list_runs():
            if (run.checkpoints / "last.ckpt").exists() and run.state == "running":
                worker = psutil.Process(int(run.status["process"]["pid"])).parent()
                assert worker is not None
                worker.kill()
                killed.append(worker.pid)
                return
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_sweep_with_a_killed_worker_is_that_of_one_machine(
    name: str,
    experiment: Experiment,
    undisturbed: dict[str, tuple[str, str, str]],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """SIGKILL ends the worker of one of two cells after a checkpoint. The cell goes on in the same run, and ends with
    the bits of the cell that was never stopped. The plan says what the cells run on."""
    settings = {"address": request.getfixturevalue("address")} if name == "ray" else {"cluster": "local"}
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(killed,), daemon=True)
    killer.start()
    with caplog.at_level(logging.INFO, logger="basereward.sweeps.sweep"):
        result = sweep(experiment, launcher=load_launcher(name, retries=1, **settings))
    killer.join()
    assert len(list_runs()) == 2
    found = {}
    for cell in result["cells"]:
        found[cell["name"]] = outcome(RunFolder(runs_root() / cell["run_id"]), cell["metrics"])
    assert found == undisturbed
    assert "plan: 2 cells, each on 1 process on a CPU" in caplog.messages


def run_tasks(
    task: Callable[..., Any], address: str, monkeypatch: pytest.MonkeyPatch, *, retries: int
) -> tuple[list[dict[str, Any]], int]:
    """Run one cell by another task on a Ray cluster, and return the rows of the sweep and the number of beginnings."""
    monkeypatch.setattr(ray_launcher, "_train", task)
    launcher = load_launcher("ray", address=address, retries=retries)
    cells = load_cells("basereward", profile="tests/small.yaml")
    try:
        rows = run_cells(cells, launcher=launcher, sweep_id=SWEEP_ID)
    finally:
        launcher.close()
    return rows, len((runs_root() / cell_tasks.NOTES).read_text().splitlines())


def test_lost_task_is_begun_again_as_often_as_the_launcher_says(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends its process each time is begun three times with two retries, and not nine times."""
    rows, begun = run_tasks(cell_tasks.killed, address, monkeypatch, retries=2)
    assert [row["status"] for row in rows] == ["failed"]
    assert begun == 3


def test_task_that_raises_is_not_begun_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same would happen again; the row has the message."""
    rows, begun = run_tasks(cell_tasks.raising, address, monkeypatch, retries=2)
    assert [row["status"] for row in rows] == ["failed"]
    assert "a bug" in rows[0]["error"]
    assert begun == 1


# What is refused before anything starts


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the commands of a made SLURM cluster on the path, and return the file that `sbatch` would write."""
    folder, submitted = tmp_path / "bin", tmp_path / "submitted"
    folder.mkdir()
    for name, line in (("sinfo", f"printf '{PARTITIONS}'"), ("sbatch", f"touch {submitted}")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return submitted


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Give the command of a sweep, which must be refused before a run or a sweep begins, and return the message."""
    assert main([*SWEEP, *options]) == 2
    assert list_runs(kind=None) == []
    return capsys.readouterr().err


GPUS = ["trainer.accelerator=gpu", "trainer.devices=4"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["launcher.partition=gpus"], ["partition", "gpus", "'gpu'"]),
        (["launcher.partition=cpu", *GPUS], ["4 GPU", "'cpu'", "at most 0"]),
        (["launcher.partition=gpu", "trainer.nodes=3", "batch.groups=12"], ["3 machines", "has 2"]),
        (["launcher.partition=gpu"], ["sqlite:", "mlflow server"]),
    ],
    ids=["unknown partition", "too many GPUs", "too many machines", "SQLite"],
)
def test_what_slurm_lacks(
    options: list[str], named: list[str], slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No job is submitted, and the message has what was given and what there is."""
    message = refused(capsys, "--on", "slurm", *options)
    for text in named:
        assert text in message
    assert not slurm.exists()


def test_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its commands on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch" in refused(capsys, "--on", "slurm")


def test_no_ray_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """At an address at which nothing listens, and at one that is none."""
    address = f"127.0.0.1:{free_port()}"
    assert address in refused(capsys, "--on", "ray", "--address", address)
    assert "'nonsense'" in refused(capsys, "--on", "ray", "--address", "nonsense")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GPUS, ["4 GPU", "0 GPU"]),
        (["launcher.cpus=3"], ["3 CPU", "2 CPU"]),
        (["trainer.nodes=2"], ["2 machines"]),
        (["launcher.autoscaling=true"], ["sqlite:", "mlflow server"]),
    ],
    ids=["too many GPUs", "too many CPUs", "too many machines", "SQLite"],
)
def test_what_a_ray_cluster_lacks(
    options: list[str], named: list[str], address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No task is left pending: the message has what is needed and what there is."""
    message = refused(capsys, "--on", "ray", "--address", address, *options)
    for text in named:
        assert text in message


def test_no_shared_folder(address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that does not see the file which the sweep writes into its folder is named."""
    # As on a machine with another file system under the same path.
    monkeypatch.setattr(Sentinel, "__enter__", lambda sentinel: sentinel.file)
    message = refused(capsys, "--on", "ray", "--address", address)
    assert socket.gethostname() in message
    assert "BASEREWARD_RUNS" in message
