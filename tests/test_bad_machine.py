"""Test a run on a failing machine: a full disk, and a tracking server that is down or dies. No data are lost.

The tests use a real full file system and a real `mlflow server` that is killed with SIGKILL.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from basereward.cli import main
from basereward.io.logs import log_to_stderr
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.runs.tracking import upload_worker
from basereward.runs.tracking.database import ensure_database
from basereward.runs.tracking.mlflow_store import _build_database, load_mlflow
from basereward.runs.tracking.tracker import Tracker, deliver_pending
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO
from basereward.training.checks import model as model_check
from tests.helpers.forked_command import ForkedCommand
from tests.helpers.servers import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ["train", "basereward", "--profile", str(ROOT / "tests" / "small.yaml")]
MIB = 2**20


class Disk:
    """A file system in memory with a limited size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, mib: float) -> None:
        """Mount the file system or change its size."""
        remount = ["-o", "remount"] if self.folder.is_mount() else []
        size = ["-o", f"size={int(mib * MIB)}"]
        command = ["mount", "-t", "tmpfs", *remount, *size, "tmpfs", str(self.folder)]
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
        if completed.returncode:
            pytest.skip(f"this user cannot mount a file system: {completed.stderr.strip()}")

    def fill(self) -> Path:
        """Fill the free space with a file and return the file."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return ballast


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Mount a file system for the runs alone."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    disk = Disk(folder)
    yield disk
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.usefixtures("ready_store")
def test_disk_that_fills_up_during_a_checkpoint_loses_nothing(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The previous checkpoint is complete, the message has the free space, and with more space the run finishes."""
    disk.mount(4)  # room for one checkpoint of about 2 MiB, not for two
    # As if another program had filled the disk after the check of the free space.
    monkeypatch.setattr(model_check, "disk_problems", lambda *_: iter(()))
    train = [*TRAIN, "trainer.checkpoint_every=1", "--json"]
    assert main(train) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    error = json.loads(printed.out)["error"]
    assert error["type"] == "CheckpointError"
    (run,) = list_runs()
    last = run.checkpoints / "last.ckpt"
    assert f"a checkpoint could not be written to '{last}'" in error["message"]
    assert "No space left on device" in error["message"]
    assert " MiB are free there)" in error["message"]
    assert f"basereward resume {run.run_id}" in error["message"]
    assert run.state == "failed"
    assert AtomicCheckpointIO().load_checkpoint(last)["global_step"] == 1
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.ckpt"]

    disk.mount(64)
    assert main([*train, "--resume", run.run_id]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run_id"] == run.run_id
    assert run.state == "finished"
    assert losses(run) == list(range(1, 7))


def test_full_disk_is_refused_before_training(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """No incomplete run remains."""
    disk.mount(1)
    ballast = disk.fill()
    assert main([*TRAIN, "--json"]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    message = json.loads(printed.out)["error"]["message"]
    assert str(disk.folder) in message
    assert "0 bytes are free" in message
    assert "Make room" in message
    ballast.unlink()
    assert list_runs(kind=None) == []
    assert [path for path in disk.folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("before", ["nothing", "database"])
def test_full_disk_of_the_tracking_store_is_reported_once(
    disk: Disk, before: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run continues without a traceback and leaves no incomplete file; with free space everything is delivered."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    disk.mount(2)
    store = disk.folder / "mlflow.db"
    if before == "database":
        load_mlflow()
        ensure_database(store, build=_build_database)
    ballast = disk.fill()
    run = RunFolder.create("name: a", recipe_sha256="a", name="a")
    tracker = Tracker(run)
    with log_to_stderr():
        tracker.start(experiment="a", uri=f"sqlite:///{store}")
        for step in range(5):
            tracker.metrics({"train/loss": 1.0}, step=step)
        assert tracker.finish(limit_s=2.0) is False
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("does not answer") == 1
    assert len(printed.splitlines()) <= 3
    assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", *["mlflow.db"] * (before == "database")]
    ballast.unlink()
    disk.mount(16)
    run.mark("finished")
    assert deliver_pending() == {run.run_id: True}


@pytest.mark.usefixtures("ready_store")
def test_interrupted_run_can_be_resumed() -> None:
    """Ctrl-C ends the command with 130 and without a traceback, and the run counts as killed, not as failed."""
    process = ForkedCommand(*TRAIN, "trainer.steps=200", "trainer.checkpoint_every=1", cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (runs := list_runs()) or not (runs[0].checkpoints / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert printed == ""
    assert "basereward: interrupted\n" in errors
    assert "Traceback" not in errors
    assert runs[0].status["state"] == "killed"
    assert AtomicCheckpointIO().load_checkpoint(runs[0].checkpoints / "last.ckpt")["global_step"] >= 1


@pytest.fixture
def server(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server that is not started, which is the tracking store of the runs."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()


def losses(run: RunFolder) -> list[int]:
    """Return the steps with a recorded loss in the order of the journal."""
    records = [record for record, _ in run.journal.read(0)]
    return [record["step"] for record in records if "train/loss" in record.get("values", {})]


def deliver(run: RunFolder) -> None:
    """Resume a finished run, which is refused, but every training first delivers pending records."""
    assert main([*TRAIN, "--resume", run.run_id]) == 2


def assert_delivered(run: RunFolder, server: Server, *, steps: int) -> None:
    """Assert that the server has the run's end, every loss once, and the model."""
    assert not run.journal.pending
    assert run.mlflow_run_id is not None
    client = MlflowClient(server.uri)
    assert client.get_run(run.mlflow_run_id).info.status == "FINISHED"
    history = client.get_metric_history(run.mlflow_run_id, "train/loss")
    assert sorted(metric.step for metric in history) == list(range(1, steps + 1))
    names = {file.path for file in client.list_artifacts(run.mlflow_run_id, "model")}
    assert {"model/reward_model.json", "model/head.safetensors", "model/recipe.yaml"} <= names


def wait_briefly() -> None:
    """Wait shortly for a server that does not answer."""
    upload_worker.LAST_TRY_S = 0.5
    Tracker.finish.__kwdefaults__["limit_s"] = 0.5


def test_unavailable_server_is_reported_once_and_gets_all_records_later(server: Server) -> None:
    """The run finishes without the server, and the next training delivers its records."""
    process = ForkedCommand(*TRAIN, "--json", cwd=ROOT, prepare=wait_briefly)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    (run,) = list_runs()
    assert json.loads(printed)["model"] == str(run.model)
    lines = [line for line in errors.splitlines() if not line.startswith("opening MLflow")]
    warnings = [line for line in lines if "MLflow" in line or "etry" in line]
    assert len(warnings) == 2, errors
    assert f"MLflow at {server.uri} does not answer" in warnings[0]
    assert f"They are kept in {run.journal.folder}" in warnings[1]
    assert losses(run) == list(range(1, 7))
    assert run.journal.pending

    server.start()
    deliver(run)
    assert_delivered(run, server, steps=6)


def test_server_that_dies_during_a_run_does_not_stop_it(server: Server) -> None:
    """The restarted server gets the missing records, and none twice."""
    server.start()
    process = ForkedCommand(*TRAIN, "trainer.steps=24", "--json", cwd=ROOT, prepare=wait_briefly)
    deadline = time.monotonic() + 120
    while not (runs := list_runs()) or len(losses(runs[0])) < 3 or runs[0].mlflow_run_id is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.kill()
    missing = set(range(1, 25)) - set(losses(runs[0]))
    assert missing, "the server was killed before the run ended"
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(printed)["run_id"] == runs[0].run_id
    assert errors.count("does not answer") == 1
    assert runs[0].journal.pending

    server.start()
    deliver(runs[0])
    assert_delivered(runs[0], server, steps=24)
