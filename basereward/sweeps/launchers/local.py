"""Runs cells on this machine: one on each GPU, or one after another without GPUs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any

from annotated_types import Interval

from basereward.errors import ClusterError, format_count
from basereward.sweeps.launcher import CellJob, Resources
from basereward.sweeps.worker_process import WorkerProcess, can_fork

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Local:
    """Trains each cell in a process of its own. Without GPUs it is forked from one that has imported the libraries.

    Consecutive probes of a place share a process, and in it the data and the backbone, until one of them fails.

    Args:
        per_gpu: cells that share a GPU, for small ones.
        cells: cells at a time on a machine without GPUs.
        retries: how often a cell whose process was killed is trained again, from its last checkpoint.

    >>> launcher = Local()
    >>> launcher.has_room(Resources())
    True
    >>> launcher.close()
    """

    def __init__(
        self,
        *,
        per_gpu: Annotated[int, Interval(ge=1)] = 1,
        cells: Annotated[int, Interval(ge=1)] = 1,
        retries: Annotated[int, Interval(ge=0)] = 0,
    ) -> None:
        self.retries = retries
        self.runs_here = True
        self.spans_machines = False
        self._per_gpu = per_gpu
        self._places = [_Place(number) for number in range(cells)]
        # Free parts of each visible GPU; None as long as they were not counted, which takes a second.
        self._gpus: dict[str, int] | None = None
        self._workers: ThreadPoolExecutor | None = None

    @property
    def gpu_memory(self) -> float | None:
        """GiB of the smallest GPU; None without GPUs, and where several cells share one."""
        return smallest_gpu_memory() if self._count_gpus() and self._per_gpu == 1 else None

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Start the process of the first cell, which imports torch while the sweep prepares its tracking.

        Raises:
            ClusterError: a cell needs several machines, or more GPUs than this machine has.
        """
        gpus = self._count_gpus()
        for resources in needed:
            if resources.nodes > 1:
                raise ClusterError(
                    f"a cell needs {resources.nodes} machines (trainer.nodes), and `--on local` runs on this one. Use "
                    "--on slurm or --on ray, or set trainer.nodes=1"
                )
            wanted = resources.gpus(available=bool(gpus))
            if wanted > len(gpus):
                raise ClusterError(
                    f"a cell needs {format_count(wanted, 'GPU')} (trainer.devices), and this machine shows "
                    f"{len(gpus)}. Set trainer.devices to at most {max(len(gpus), 1)}, or use a cluster with --on"
                )
        if not gpus:
            self._places[0].start({})

    def has_room(self, resources: Resources) -> bool:
        """Whether enough GPUs, or a place without one, are free."""
        gpus = self._count_gpus()
        wanted = resources.gpus(available=bool(gpus))
        if not gpus:
            return any(not place.is_busy for place in self._places)
        # A cell of the CPU takes its place beside those of the GPUs.
        return wanted <= sum(self._is_free(free, wanted) for free in gpus.values()) and bool(wanted or self._idle())

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Train a cell in the process of a free place."""
        gpus = self._count_gpus()
        wanted = resources.gpus(available=bool(gpus))
        share = 1 if wanted == 1 else self._per_gpu
        chosen = [name for name, free in gpus.items() if self._is_free(free, wanted)][:wanted]
        for name in chosen:
            gpus[name] -= share
        place = self._take_place()
        environment = {VISIBLE: ",".join(chosen)} if gpus else {}
        if self._workers is None:
            self._workers = ThreadPoolExecutor(max_workers=256, thread_name_prefix="basereward-cell")
        work = self._workers.submit(place.train, job, environment, fork=not gpus and can_fork())

        def free_place(_: object) -> None:
            for name in chosen:
                gpus[name] += share
            place.is_busy = False

        work.add_done_callback(free_place)
        return work

    def cancel(self) -> None:
        """Send SIGINT to the processes of the cells; `close` waits for their end."""
        for place in self._places:
            place.interrupt()

    def close(self) -> None:
        """End all processes."""
        for place in self._places:
            place.close()
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None

    def _is_free(self, free: int, wanted: int) -> bool:
        """Whether a GPU with so many free parts can be one of those that a cell wants."""
        # A cell on several GPUs has them alone: its processes wait for each other.
        return free > 0 if wanted == 1 else free == self._per_gpu

    def _idle(self) -> bool:
        return not any(place.is_busy for place in self._places)

    def _take_place(self) -> _Place:
        place = next((place for place in self._places if not place.is_busy), None)
        if place is None:
            place = _Place(len(self._places))
            self._places.append(place)
        place.is_busy = True
        return place

    def _count_gpus(self) -> dict[str, int]:
        if self._gpus is None:
            self._gpus = dict.fromkeys(visible_gpus(), self._per_gpu)
        return self._gpus


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, {VISIBLE: "2,3"}):
    ...     visible_gpus()
    ['2', '3']
    """
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    # By NVIDIA's library and not by torch, which takes seconds to import and would reserve memory of the first GPU.
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def smallest_gpu_memory() -> float | None:
    """The memory of the smallest NVIDIA GPU of this machine in GiB; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return min((pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30 for handle in handles), default=None)
    except pynvml.NVMLError:
        return None


class _Place:
    """Where one cell runs at a time, with the process that does."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_busy = False
        self._process: WorkerProcess | None = None
        self._environment: dict[str, str] = {}
        # Whether the process has trained a cell itself. One that only imported, or forked others, can take any cell.
        self._used = False

    def start(self, environment: dict[str, str]) -> WorkerProcess:
        """The process of this place, with some environment variables."""
        if self._process is not None and environment != self._environment:
            self.close()
        if self._process is None:
            self._process = WorkerProcess("basereward.sweeps.cell_worker", environment)
            self._environment = environment
        return self._process

    def train(self, job: CellJob, environment: dict[str, str], *, fork: bool) -> dict[str, Any]:
        """Train a cell.

        Args:
            job: the cell.
            environment: variables of the process.
            fork: in a process that is forked from the one of this place. Not for probes, which share what they hold.

        Raises:
            RunError: it failed.
        """
        is_probe = job.cell.recipe.probe
        fork = fork and not is_probe
        # A process that has run a probe holds its backbone, and only its end surely frees that memory.
        if self._used and not is_probe:
            self.close()
        process = self.start(environment)
        self._used = not fork
        keep = fork
        try:
            result = process.run(job.task, parent=job.parent, resume=job.resume, fork=fork)
            keep = fork or is_probe
        finally:
            # A failed process may hold memory, or a GPU in a fault, which would make the next cells fail as well.
            if not keep or process.has_ended:
                self.close()
        return result

    def interrupt(self) -> None:
        """Stop the cell, as Ctrl-C does."""
        if self._process is not None:
            self._process.interrupt()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process, self._used = self._process, None, False
        if process is not None:
            process.close()
