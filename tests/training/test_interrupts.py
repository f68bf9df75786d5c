"""Ctrl-C, and two processes that go on with one run."""

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
from tests.helpers.killed_process import Moment, start_training, train_in_process
from tests.sweeps.test_sweep import ROOT, SEEDS, Place, cells_of, wait_for_end

pytestmark = pytest.mark.slow

PROFILE = "tests/small.yaml"


def test_of_two_that_resume_a_run_one_is_refused_and_changes_nothing() -> None:
    """The first is held just before it marks the run as running: the second sees a killed run, as the first did."""
    overrides = ["trainer.checkpoint_every=1", "trainer.validations=1"]
    in_validation = Moment("basereward.training.module:RewardModule.validation_step")
    assert train_in_process("basereward", overrides, profile=PROFILE, kill=in_validation) == -signal.SIGKILL
    (run,) = list_runs()
    leftovers = [run.checkpoints / ".last.ckpt.part", run.path / ".status.json.0a.tmp", run.path / ".model-abc"]
    for place in leftovers:
        place.write_text("")
    held = Moment("basereward.training.fit:recipe_from_yaml", signal=signal.SIGSTOP)
    first = start_training("basereward", overrides, profile=PROFILE, resume=run.run_id, kill=held)
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
    assert not any(place.exists() for place in leftovers)


def wait_until_stopped(pid: int) -> None:
    """Waits for a process that stops itself."""
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _hear_ctrl_c() -> None:
    """A shell starts its background jobs deaf to SIGINT, and their children inherit it. A group of its own gets a
    signal as the processes of a terminal do."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)


@pytest.mark.parametrize("moment", ["cell-starts", "cell-trains"])
def test_ctrl_c_in_a_sweep(moment: str, tmp_path: Path) -> None:
    """The sweep and its cell end without a traceback, with 130, and count as killed."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "seeds.yaml").write_text(SEEDS)
    place = Place(tmp_path)
    overrides = ["trainer.steps=2000", "trainer.checkpoint_every=1"]
    command = [sys.executable, "-m", "basereward", "sweep", "seeds", "--profile", str(ROOT / PROFILE), *overrides]
    log = tmp_path / "log"
    with log.open("w") as errors:
        environment = os.environ | place.environment
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors, preexec_fn=_hear_ctrl_c)
    deadline = time.monotonic() + 120
    while not (cells := cells_of(process.pid)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while moment == "cell-trains" and not any((run.checkpoints / "last.ckpt").exists() for run in place.runs()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    assert wait_for_end(cells[0]) < 15
    assert "Traceback" not in log.read_text()
    assert log.read_text().splitlines()[-1] == "basereward: interrupted"
    assert all(run.status["state"] == "killed" for run in place.runs())


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [("os.kill(os.getpid(), signal.SIGINT)", "", 130), ("", "os.kill(os.getpid(), signal.SIGINT)", 0)],
    ids=["among-the-imports", "at-the-exit"],
)
def test_ctrl_c_outside_of_the_work_has_no_traceback(before: str, after: str, status: int) -> None:
    """Before the command begins it does not begin; after its end it has ended."""
    program = f"""
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import basereward.__main__ as command
{before}
atexit.register(lambda: {after or "None"})
sys.argv = ["basereward", "ls", "heads"]
sys.exit(command.run())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == ("basereward: interrupted\n" if before else "")
