"""A loader process that is killed or stopped ends the command soon with a clear error."""

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
from basereward.data.loading import end_with_training, loader_fault, loader_faults
from basereward.errors import TrainingError
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO
from basereward.training.parallel.sharded_checkpoint import KEYS
from tests.helpers.forked_program import run_program

pytestmark = pytest.mark.slow


class Struck(Dataset[int]):
    """A data set whose loader process gets a signal at index 5."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 5 and get_worker_info():
            os.kill(os.getpid(), self.number)
        return index


def _read(signal_number: signal.Signals) -> None:
    """Read all items with two loader processes."""
    for _ in DataLoader(Struck(signal_number), batch_size=1, num_workers=2, timeout=30):
        pass


def in_a_process(function: str, *arguments: object) -> str:
    """Call a function of this file in its own process, since torch's signal handler can raise at any moment, and return
    what it prints."""
    call = f"{function}({', '.join(map(repr, arguments))})"
    code, output = run_program(f"import os, tests.data.test_loading as here; here.{call}; os._exit(0)")
    assert code == 0
    return output


def read_until_a_process_is_struck(signal_number: int) -> None:
    """Print the error that a signal to a loader process causes."""
    loading.STOPPED_S = 1
    try:
        with loader_faults():
            _read(signal.Signals(signal_number))
    except TrainingError as error:
        print(error, flush=True)  # noqa: T201


@pytest.mark.parametrize(("signal_number", "verb"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "stopped")])
def test_killed_or_stopped_loader_is_an_error(signal_number: signal.Signals, verb: str) -> None:
    """The message says what to do, and a stopped process does not block the exit."""
    printed = in_a_process("read_until_a_process_is_struck", int(signal_number))
    assert verb in printed
    assert "data.workers=0" in printed


@pytest.mark.parametrize(
    "message", ["DataLoader timed out after 600 seconds", "DataLoader worker (pid 7) is killed by"]
)
def test_loader_fault_recognizes_errors_of_torch(message: str) -> None:
    """Also as the cause of another error."""
    try:
        try:
            raise RuntimeError(message)
        except RuntimeError as error:
            raise ValueError("a batch") from error
    except ValueError as error:
        fault = loader_fault(error)
    assert fault is not None
    assert ("600 s" in str(fault)) == ("timed out" in message)


def test_other_errors_pass_through() -> None:
    """Errors that a data set raises in a loader process are not loader faults."""
    with pytest.raises(RuntimeError, match=r"^CUDA error$"), loader_faults():
        raise RuntimeError("CUDA error")
    assert loader_fault(RuntimeError("Caught ValueError in DataLoader worker process 0.")) is None
    assert loader_fault(None) is None


def save_while_a_process_is_killed(path: str) -> None:
    """Print the error of a checkpoint that is being written when a loader process is killed."""
    before = multiprocessing.active_children()
    loader = iter(DataLoader(Struck(signal.SIGCONT), batch_size=1, num_workers=1))
    next(loader)
    [worker] = [child for child in multiprocessing.active_children() if child not in before]
    write = AtomicCheckpointIO()
    write.save_checkpoint(dict.fromkeys(KEYS) | {"global_step": torch.tensor(1)}, path)

    def kill(*_: object) -> None:
        worker.kill()
        time.sleep(30)  # until the handler raises

    os.fsync = kill
    try:
        write.save_checkpoint({"step": torch.tensor(2)}, path)
    except TrainingError as error:
        print(error, flush=True)  # noqa: T201


def test_killed_loader_during_a_checkpoint_is_a_loader_error(tmp_path: Path) -> None:
    """torch's signal handler can raise while a checkpoint is written; the error names the loader, and the earlier
    checkpoint stays."""
    printed = in_a_process("save_while_a_process_is_killed", f"{tmp_path}/last.ckpt")
    assert "data.workers=0" in printed
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == torch.tensor(1)


def test_loaders_end_with_the_training_process() -> None:
    """The training process is killed while loaders wait to hand over batches."""
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
    still_running = [pid for pid in loaders if _is_running(pid)]
    for pid in still_running:
        os.kill(pid, signal.SIGKILL)
    assert len(loaders) == 2
    assert still_running == []


def test_loader_ends_when_its_training_process_was_gone_before() -> None:
    """The training process ends before its loader begins to watch it."""
    context = multiprocessing.get_context("fork")
    pids = context.Queue()
    training = context.Process(target=_start_and_end, args=(pids,))
    training.start()
    training.join()
    loader = pids.get(timeout=60)
    deadline = time.monotonic() + 60
    while _is_running(loader) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(loader)


def _start_and_end(pids: Any) -> None:
    """Start a loader and end at once, without waiting for it."""
    multiprocessing.get_context("fork").Process(target=_watch_late, args=(pids, os.getpid())).start()
    os._exit(0)


def _watch_late(pids: Any, training: int) -> None:
    """Begin to watch the training process when it is gone."""
    while os.getppid() == training:
        time.sleep(0.01)
    pids.put(os.getpid())
    # A thread writes it, and would end with the process.
    pids.close()
    pids.join_thread()
    end_with_training(0)
    time.sleep(300)  # until it ends itself


class Large(Struck):
    """A data set with items that do not fit into a pipe."""

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return bytes(1_000_000)


def _load_and_wait(pids: Any) -> None:
    """Start loaders, and report their process ids."""
    data = Large(signal.SIGCONT)
    iterator = iter(DataLoader(data, num_workers=2, collate_fn=list, worker_init_fn=end_with_training))
    pids.put([worker.pid for worker in iterator._workers])  # type: ignore[attr-defined]
    time.sleep(300)  # until it is killed


def _is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except OSError:
        return False
