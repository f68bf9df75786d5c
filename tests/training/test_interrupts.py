"""Test Ctrl-C, and two processes that resume one run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from basereward.errors import RunError
from basereward.recipe import load_recipe
from basereward.runs.run_folder import list_runs
from basereward.training.fit import train
from tests.helpers.forked_command import ForkedCommand
from tests.helpers.killed_process import Moment, start_training, train_in_process
from tests.sweeps.test_sweep import ROOT, SEEDS, Place, cells_of, wait_for_end

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

PROFILE = "tests/small.yaml"


def test_second_process_that_resumes_a_run_is_refused() -> None:
    """The first process is stopped just before it marks the run as running. The second sees a killed run, is refused,
    and changes no file."""
    overrides = ["trainer.checkpoint_every=1", "trainer.validations=1"]
    in_validation = Moment("basereward.training.module:RewardModule.validation_step")
    assert train_in_process("basereward", overrides, profile=PROFILE, kill=in_validation) == -signal.SIGKILL
    (run,) = list_runs()
    leftovers = [run.checkpoints / ".last.ckpt.part", run.path / ".status.json.0a.tmp", run.path / ".model-abc"]
    for leftover in leftovers:
        leftover.write_text("")
    stop_before_marking = Moment("basereward.runs.run_folder:RunFolder.read_recipe", signal=signal.SIGSTOP)
    first = start_training("basereward", overrides, profile=PROFILE, resume=run.run_id, kill=stop_before_marking)
    wait_until_stopped(first.pid)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    assert run.state == "killed"
    with pytest.raises(RunError, match="running"):
        train(load_recipe("basereward", profile=PROFILE, overrides=overrides), resume=run.run_id)
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0
    assert run.state == "finished"
    assert not any(leftover.exists() for leftover in leftovers)


def wait_until_stopped(pid: int) -> None:
    """Wait for a process that stops itself."""
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("moment", ["worker-starts", "cell-starts", "cell-trains"])
def test_ctrl_c_stops_a_sweep(moment: str, tmp_path: Path, empty_store: Path) -> None:
    """The sweep and its cell end with 130 and without a traceback, and their runs are killed.

    The process of the first cell starts before the sweep is recorded, so that it imports meanwhile.
    """
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "seeds.yaml").write_text(SEEDS)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    place = Place(tmp_path)
    command = ["sweep", "seeds", "--profile", str(ROOT / PROFILE), "trainer.steps=2000", "trainer.checkpoint_every=1"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        environment = os.environ | place.environment
        process = ForkedCommand(*command, cwd=ROOT, environment=environment, errors=errors, new_group=True)
    deadline = time.monotonic() + 120
    while not cells_of(process.pid):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while moment == "cell-starts" and "opening MLflow" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while moment == "cell-trains" and not any((run.checkpoints / "last.ckpt").exists() for run in place.runs()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cells = cells_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    assert max(map(wait_for_end, cells)) < 15
    assert "Traceback" not in log.read_text()
    lines = log.read_text().splitlines()
    sweeps = list_runs(kind="sweep", root=tmp_path / "runs")
    # At the first moment there is no sweep yet, or one without cells: nothing to resume.
    if moment != "worker-starts":
        assert lines.pop().endswith(f": basereward resume {sweeps[0].run_id}")
    assert "basereward: interrupted" in lines[-2:]
    assert all(run.status["state"] == "killed" for run in place.runs())


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [("os.kill(os.getpid(), signal.SIGINT)", "", 130), ("", "os.kill(os.getpid(), signal.SIGINT)", 0)],
    ids=["among-the-imports", "at-the-exit"],
)
def test_ctrl_c_during_imports_or_exit_has_no_traceback(before: str, after: str, status: int) -> None:
    """During the imports the command ends with 130; at the exit it has already succeeded."""
    program = f"""
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import basereward.__main__ as command
{before}
atexit.register(lambda: {after or "None"})
sys.argv = ["basereward", "ls", "heads"]
sys.exit(command.run())
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert completed.returncode == status
    assert completed.stderr == ("basereward: interrupted\n" if before else "")
