"""A loading process that is killed or stopped ends the command with an error that says so, and soon."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from basereward.data import loading
from basereward.data.loading import end_with_parent, loader_fault, loader_faults
from basereward.errors import TrainingError
from basereward.train.checkpoint import AtomicCheckpointIO


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


@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "stopped")])
def test_a_loading_process_that_ends_or_hangs_is_named(
    number: signal.Signals, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do; a stopped one is no longer there afterwards, and nothing waits for it."""
    monkeypatch.setattr(loading, "STOPPED_S", 1)
    with pytest.raises(TrainingError, match=rf"{said}.*data\.workers=0"), loader_faults():
        _read(number)


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


def test_a_checkpoint_that_a_killed_process_interrupts_is_no_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's signal handler raises wherever the training process is; the checkpoint of before stays."""
    before = multiprocessing.active_children()
    loader = iter(DataLoader(Struck(signal.SIGCONT), batch_size=1, num_workers=1))
    next(loader)
    [worker] = [child for child in multiprocessing.active_children() if child not in before]
    path = f"{tmp_path}/last.ckpt"
    write = AtomicCheckpointIO()
    write.save_checkpoint({"step": torch.tensor(1)}, path)

    def kill(*_: object) -> None:
        worker.kill()
        time.sleep(30)  # until the handler raises

    monkeypatch.setattr(os, "fsync", kill)
    with pytest.raises(TrainingError, match=r"data\.workers=0"):
        write.save_checkpoint({"step": torch.tensor(2)}, path)
    monkeypatch.undo()
    assert write.load_checkpoint(path) == {"step": torch.tensor(1)}


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
