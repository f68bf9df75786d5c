"""A model on several devices: one process for each, and the scores in the order of the groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TypeAlias

import torch

from basereward.data.schema.group import Group
from basereward.errors import BaseRewardError, DataError, ModelError, check_several
from basereward.inference.group_scores import GroupResult, ScoresGroups
from basereward.inference.load_model import load
from basereward.io.logs import log_to_stderr
from basereward.io.processes import describe_end, end_with_parent, spawn
from basereward.io.progress import phase
from basereward.recipe.trust import is_trusted, trusting

GROUPS_OF_TASK = 64
"""Groups that a process scores at once: several forward passes, so that packing has a choice and a device is busy."""
TASKS_AHEAD = 4
"""Tasks for each device that may be started before the first one's scores are read. It bounds the memory."""

Devices: TypeAlias = Sequence[str] | int
"""Names of devices, such as `["cuda:0", "cuda:1"]`; or their number: the first GPUs, or processes on the CPU."""


@contextmanager
def open_scorer(
    model: str, *, devices: Devices = (), dtype: str | None = None, num_groups: int | None = None
) -> Iterator[ScoresGroups]:
    """Opens a model on one device in this process, or on several devices in a process for each.

    Args:
        model: as in `load`.
        devices: with several times `cpu`, as many processes share the cores. Empty: all GPUs, or the CPU.
        dtype: as in `load`.
        num_groups: number of groups to score, if it is known. Few groups do not need all GPUs; devices that are named
            are all used.

    Raises:
        DataError: as `available_devices`.
        ModelError: the model cannot be opened.
    """
    chosen = available_devices(devices)
    if not devices and num_groups is not None:
        # Opening the model takes longer than the scores of one task.
        chosen = chosen[: max(1, num_groups // GROUPS_OF_TASK)]
    if len(chosen) == 1:
        with phase("loading the model"):
            scorer = load(model, device=chosen[0], dtype=dtype)
        yield scorer
        return
    with phase(f"loading the model on {len(chosen)} devices"):
        parallel = ParallelScorer(model, devices=chosen, dtype=dtype)
    try:
        yield parallel
    finally:
        parallel.close()


def available_devices(devices: Devices = ()) -> list[str]:
    """The names of the devices to score on, at least one.

    Args:
        devices: as in `open_scorer`.

    Raises:
        DataError: there is no such device, there are fewer GPUs, or a GPU is named twice.

    >>> available_devices(["cpu", "cpu"])
    ['cpu', 'cpu']
    >>> available_devices(["cuda:99"])
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: there is no device 'cuda:99'; available: cpu...
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if isinstance(devices, int):
        return _first_devices(devices, gpus=gpus)
    check_several(devices, name="devices", of="names")
    for device, number in Counter(devices).items():
        if device not in ["cpu", *gpus]:
            raise DataError(f"there is no device '{device}'; available: {', '.join(['cpu', *gpus])}")
        if device != "cpu" and number > 1:
            raise DataError(f"device '{device}' is named {number} times; name each GPU once")
    return list(devices) or gpus or ["cpu"]


def _first_devices(number: int, *, gpus: Sequence[str]) -> list[str]:
    """The first GPUs, or processes on the CPU where there is no GPU.

    Raises:
        DataError: the number is below 1, or there are fewer GPUs.

    >>> _first_devices(2, gpus=[]), _first_devices(1, gpus=["cuda:0", "cuda:1"])
    (['cpu', 'cpu'], ['cuda:0'])
    """
    if number < 1 or (gpus and number > len(gpus)):
        allowed = f"1 to {len(gpus)} (the GPUs here)" if gpus else "at least 1"
        raise DataError(f"{number} devices to score on; allowed: {allowed}")
    return list(gpus[:number]) or ["cpu"] * number


def threads_of_process(devices: Sequence[str | None]) -> int | None:
    """How many threads of torch each of several processes gets; None: as many as it chooses.

    Every process would choose as many as the machine has cores, and with several of them on the CPU, threads that wait
    for each other make all slower.

    Args:
        devices: of the processes; the CPU is shared by those that are on it.

    >>> threads_of_process(["cuda:0", "cuda:1"]) is None
    True
    """
    cpu_processes = list(devices).count("cpu")
    return max(1, torch.get_num_threads() // cpu_processes) if cpu_processes else None


class _Task(NamedTuple):
    """Groups for a worker, with the options of `score_batches`."""

    groups: list[Group]
    tokens: int | None


class _Answer(NamedTuple):
    """The results of a task.

    Attributes:
        results: of each group. Pickling loses the cause of an error, so it travels beside it.
        latencies: milliseconds of every forward pass.
    """

    results: list[list[float] | tuple[DataError, BaseException | None]]
    latencies: list[float]

    def results_with_causes(self) -> list[GroupResult]:
        """The results, with every error joined to its cause."""
        joined: list[GroupResult] = []
        for result in self.results:
            if isinstance(result, tuple):
                error, cause = result
                error.__cause__ = cause
                joined.append(error)
            else:
                joined.append(result)
        return joined


class _Worker(NamedTuple):
    """A process with the model on one device."""

    device: str
    process: BaseProcess
    connection: Connection


class ParallelScorer(ScoresGroups):
    """A model on several devices, one process for each.

    The processes import the main module of the program, as every process that Python's multiprocessing starts: a script
    that uses this class needs `if __name__ == "__main__":`.

    Args:
        model: as in `load`; every process opens it.
        devices: as in `open_scorer`, at least one.
        dtype: as in `load`.

    Raises:
        ModelError: the model cannot be opened, or a process has ended.

    Example:
        scorer = ParallelScorer("runs/my_run/model", devices=["cuda:0", "cuda:1"])
        scores = list(scorer.score_groups(groups))
        scorer.close()
    """

    def __init__(self, model: str, *, devices: Sequence[str], dtype: str | None = None) -> None:
        self._workers: list[_Worker] = []
        # The tasks that are being scored, by worker.
        self._running: dict[Connection, int] = {}
        threads = threads_of_process(devices)
        try:
            for device in devices:
                self._workers.append(_start_worker(model, device=device, dtype=dtype, threads=threads))
            for worker in self._workers:
                _receive(worker)
        except BaseException:
            self.close()
            raise

    def score_batches(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[GroupResult]]:
        """As the base; yields the results of up to `GROUPS_OF_TASK` groups at a time.

        Raises:
            ModelError: a score is NaN or infinite, or a process has ended.
        """
        self._finish_abandoned()
        tasks = _cut(groups, tokens=tokens)
        finished: dict[int, _Answer] = {}
        started = yielded = 0
        while True:
            # Only a worker without a task gets one: it waits for it, so sending to it cannot block both sides.
            for worker in self._idle():
                task = next(tasks, None) if started - yielded < TASKS_AHEAD * len(self._workers) else None
                if task is None:
                    break
                _send(worker, task)
                self._running[worker.connection] = started
                started += 1
            if not self._running:
                return
            finished |= self._wait()
            while yielded in finished:
                answer = finished.pop(yielded)
                yielded += 1
                if latencies is not None:
                    latencies += answer.latencies
                yield answer.results_with_causes()

    def _idle(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.connection not in self._running]

    def _wait(self) -> dict[int, _Answer]:
        """Waits until a task has ended, and returns the answers of all that have, by the index of the task."""
        ready = wait(list(self._running))
        answers: dict[int, _Answer] = {}
        for worker in self._workers:
            if worker.connection in ready:
                index = self._running.pop(worker.connection)
                answers[index] = _receive(worker)
        return answers

    def _finish_abandoned(self) -> None:
        """Waits for the tasks of an earlier call whose results nobody has read."""
        while self._running:
            self._wait()

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()
        self._running.clear()


def _cut(groups: Iterable[Group], *, tokens: int | None) -> Iterator[_Task]:
    remaining = iter(groups)
    while task_groups := list(islice(remaining, GROUPS_OF_TASK)):
        yield _Task(task_groups, tokens)


def _start_worker(model: str, *, device: str, dtype: str | None, threads: int | None) -> _Worker:
    setup = _Setup(model, device, dtype, threads, is_trusted(), os.getpid())
    return _Worker(device, *spawn(_work, setup, name=f"basereward on {device}"))


def _send(worker: _Worker, task: _Task) -> None:
    """
    Raises:
        ModelError: the process has ended.
    """
    try:
        worker.connection.send(task)
    except BrokenPipeError:
        raise _ended(worker) from None


def _receive(worker: _Worker) -> _Answer:
    """
    Raises:
        ModelError: the process has ended.
        BaseRewardError: what the worker raised.
    """
    try:
        answer: _Answer | BaseRewardError = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        raise _ended(worker) from None
    if isinstance(answer, BaseRewardError):
        raise answer
    return answer


def _ended(worker: _Worker) -> ModelError:
    worker.process.join()
    return ModelError(
        f"the process that scores on {worker.device} has ended with "
        f"{describe_end(worker.process.exitcode)}; its output is above. Signal 9 often "
        "means that the memory of the machine is full: name fewer devices"
    )


class _Setup(NamedTuple):
    """What a worker needs to open the model.

    Attributes:
        model, device, dtype: as in `load`.
        threads: of torch; None: as many as it chooses.
        trusted: whether code from outside this package may run.
        parent: the process number of the parent.
    """

    model: str
    device: str
    dtype: str | None
    threads: int | None
    trusted: bool
    parent: int


def _work(connection: Connection, setup: _Setup) -> None:
    """The main function of a worker: opens the model, then scores tasks until it is killed.

    Any error but ours ends the process with a traceback, as out of memory does: its GPU may be in a fault.
    """
    end_with_parent(setup.parent)
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    with log_to_stderr(), trusting(setup.trusted):
        try:
            scorer = load(setup.model, device=setup.device, dtype=setup.dtype)
        except BaseRewardError as error:
            connection.send(error)
            return
        connection.send(_Answer([], []))
        while True:
            task: _Task = connection.recv()
            connection.send(_score(scorer, task))


def _score(scorer: ScoresGroups, task: _Task) -> _Answer | BaseRewardError:
    latencies: list[float] = []
    results: list[list[float] | tuple[DataError, BaseException | None]] = []
    try:
        # Checks that scores are finite too: this process has the weights, and can name the one that is not.
        for result in scorer.score_or_reject(task.groups, tokens=task.tokens, latencies=latencies):
            results.append((result, result.__cause__) if isinstance(result, DataError) else result)
    except BaseRewardError as error:
        return error
    return _Answer(results, latencies)
