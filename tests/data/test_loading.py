"""A loading process that is killed or stopped ends the command with an error that says so, and soon."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from basereward.data import loading
from basereward.data.loading import end_with_parent, loader_fault, loader_faults
from basereward.errors import TrainingError
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class Struck(Dataset[int]):
    """Its loading process gets a signal at one of its items."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 5 and get_worker_info():
            os.kill(os.getpid(), self.number)
        return index


def _read(number: signal.Signals) -> None:
    for _ in DataLoader(Struck(number), batch_size=1, num_workers=2, timeout=30):
        pass


def in_a_process(function: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Calls a function of this file in a process of its own: torch's signal handler may raise there at any moment."""
    call = f"{function}({', '.join(map(repr, arguments))})"
    code = f"import os, tests.data.test_loading as here; here.{call}; os._exit(0)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def read_until_a_process_is_struck(number: int) -> None:
    """Prints the error that a signal to a loading process comes to."""
    loading.STOPPED_S = 1
    try:
        with loader_faults():
            _read(signal.Signals(number))
    except TrainingError as error:
        print(error, flush=True)  # noqa: T201


@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "stopped")])
def test_a_loading_process_that_ends_or_hangs_is_named(number: signal.Signals, said: str) -> None:
    """With what to do; a stopped one is no longer there afterwards, and nothing waits for it."""
    done = in_a_process("read_until_a_process_is_struck", int(number))
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "data.workers=0" in done.stdout


@pytest.mark.parametrize("told", ["DataLoader timed out after 600 seconds", "DataLoader worker (pid 7) is killed by"])
def test_what_torch_raises_is_told_apart(told: str) -> None:
    """Also where it is the cause of another error."""
    try:
        try:
            raise RuntimeError(told)
        except RuntimeError as error:
            raise ValueError("a batch") from error
    except ValueError as error:
        fault = loader_fault(error)
    assert fault is not None
    assert ("600 s" in str(fault)) == ("timed out" in told)


def test_other_errors_pass_as_they_are() -> None:
    """Also those of a loading process that raised one."""
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), loader_faults():
        raise RuntimeError("CUDA error")
    assert loader_fault(RuntimeError("Caught ValueError in DataLoader worker process 0.")) is None
    assert loader_fault(None) is None


def save_while_a_process_is_killed(path: str) -> None:
    """Prints the error of a checkpoint that is being written when a loading process is killed."""
    before = multiprocessing.active_children()
    loader = iter(DataLoader(Struck(signal.SIGCONT), batch_size=1, num_workers=1))
    next(loader)
    [worker] = [child for child in multiprocessing.active_children() if child not in before]
    write = AtomicCheckpointIO()
    write.save_checkpoint({"step": torch.tensor(1)}, path)

    def kill(*_: object) -> None:
        worker.kill()
        time.sleep(30)  # until the handler raises

    os.fsync = kill
    try:
        write.save_checkpoint({"step": torch.tensor(2)}, path)
    except TrainingError as error:
        print(error, flush=True)  # noqa: T201


def test_a_checkpoint_that_a_killed_process_interrupts_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """torch's signal handler raises wherever the training process is; the checkpoint of before stays."""
    done = in_a_process("save_while_a_process_is_killed", f"{tmp_path}/last.ckpt")
    assert done.returncode == 0, done.stderr
    assert "data.workers=0" in done.stdout
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt") == {"step": torch.tensor(1)}


def test_loading_processes_end_with_the_process_that_they_load_for() -> None:
    """Which is killed while they wait to hand over their batches."""
    context = multiprocessing.get_context("fork")
    pids = context.Queue()
    training = context.Process(target=_load_and_wait, args=(pids,))
    training.start()
    loaders = pids.get(timeout=60)
    training.kill()
    training.join()
    deadline = time.monotonic() + 60
    while any(_is_running(pid) for pid in loaders) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in loaders if _is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(loaders) == 2
    assert left == []


class Large(Struck):
    """Batches that do not fit into a pipe."""

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return bytes(1_000_000)


def _load_and_wait(pids: Any) -> None:
    data = Large(signal.SIGCONT)
    begun = iter(DataLoader(data, num_workers=2, collate_fn=list, worker_init_fn=end_with_parent))
    pids.put([worker.pid for worker in begun._workers])  # type: ignore[attr-defined]
    time.sleep(300)  # until it is killed


def _is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False
