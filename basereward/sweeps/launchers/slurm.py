"""Runs cells as jobs of SLURM, which submitit submits as arrays; one that is stopped goes on from its checkpoint."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from annotated_types import Interval

from basereward.cluster.shared_place import missing_files, not_shared, worker_environment
from basereward.cluster.slurm import JobQueue, check_partition, delayed
from basereward.errors import ClusterError, RunError
from basereward.io.processes import identify_process
from basereward.recipe.trust import is_trusted, trusting
from basereward.runs.run_folder import runs_root
from basereward.sweeps.launcher import CellJob, LostWorkerError, Resources
from basereward.sweeps.worker_process import SAVE_S, WorkerProcess, read_outcome, run_in_worker

POLL_S = 2.0
"""Seconds between looks at the jobs. submitit asks SLURM less often."""


class Slurm:
    """Trains each cell in a job of SLURM, on a cluster whose machines share the folder of runs and the working folder.

    Args:
        partition: of the jobs; null: the default one.
        hours: time limit of a job. A run that takes longer is queued again and goes on from its checkpoint.
        account: that the jobs are charged to; null: the default one.
        qos: quality of service of the jobs; null: the default one.
        at_a_time: most jobs that run at a time.
        cpus: processors of each process of a cell.
        memory: GiB of each machine's memory for a cell; null: the default of the partition.
        gpu_memory: GiB of a GPU, by which a cell without `trainer.devices` gets as many GPUs as it needs; null: one.
        save_s: seconds before the end of its time at which a job saves.
        gpus: `auto`: as many as the recipe has devices, where the partition has GPUs; `none`: the cells run on CPUs.
        extra: further options of sbatch by their names, as `{constraint: h100}`.
        retries: how often a cell is submitted again whose job SLURM has ended without queueing it again.
        cluster: `local`: processes of this machine in place of SLURM, for tests.

    >>> Slurm(partition="gpu", hours=12).retries
    3
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        hours: Annotated[float, Interval(gt=0)] = 24.0,
        account: str | None = None,
        qos: str | None = None,
        at_a_time: Annotated[int, Interval(ge=1)] = 64,
        cpus: Annotated[int, Interval(ge=1)] = 1,
        memory: Annotated[float, Interval(gt=0)] | None = None,
        gpu_memory: Annotated[float, Interval(gt=0)] | None = None,
        save_s: Annotated[int, Interval(ge=1)] = 120,
        gpus: Literal["auto", "none"] = "auto",
        extra: dict[str, Any] | None = None,
        retries: Annotated[int, Interval(ge=0)] = 3,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        self.retries = retries
        self.runs_here = cluster == "local"
        self.spans_machines = cluster == "slurm"
        self._partition = partition
        self._at_a_time = at_a_time
        self._cpus = cpus
        self._has_gpus = gpus == "auto" and cluster == "slurm"
        self.gpu_memory = gpu_memory if self._has_gpus else None
        self._cluster = cluster
        self._settings: dict[str, Any] = {"timeout_min": max(1, round(hours * 60))}
        if memory is not None:
            self._settings["mem_gb"] = memory
        named = {"partition": partition, "account": account, "qos": qos, "additional_parameters": extra}
        self._settings |= {f"slurm_{key}": value for key, value in named.items() if value}
        self._settings |= {"slurm_array_parallelism": at_a_time, "slurm_signal_delay_s": save_s}
        self._queue: JobQueue | None = None
        # Submitted by the sweep and not yet to SLURM: what comes together becomes one array.
        self._waiting: list[tuple[Future[dict[str, Any]], CellJob, Resources]] = []
        self._jobs: dict[Future[dict[str, Any]], Any] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Check that SLURM is here, and that the partition has what the cells need.

        Raises:
            ClusterError: submitit or SLURM is not installed, there is no such partition, or it lacks what a cell needs.
        """
        self._open()
        if self._cluster == "local":
            if any(resources.nodes > 1 for resources in needed):
                raise ClusterError("a cell needs several machines (trainer.nodes), and launcher.cluster=local has one")
            return
        for resources in dict.fromkeys(needed):
            gpus = resources.gpus(available=self._has_gpus)
            is_optional = resources.accelerator == "auto"
            check_partition(self._partition, nodes=resources.nodes, gpus=gpus, cpu_only=is_optional)

    def has_room(self, resources: Resources) -> bool:
        """Whether fewer jobs than the most at a time are submitted."""
        return len(self._jobs) + len(self._waiting) < self._at_a_time

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Submit a job for a cell."""
        self._open()
        work: Future[dict[str, Any]] = Future()
        with self._lock:
            self._waiting.append((work, job, resources))
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="basereward-slurm", daemon=True)
            self._thread.start()
        self._wake.set()
        return work

    def cancel(self) -> None:
        """Cancel every job; a cell that runs saves first."""
        with self._lock:
            self._waiting.clear()
            for job in self._jobs.values():
                job.cancel(check=False)

    def close(self) -> None:
        """Stop watching the jobs. Those that were cancelled end by themselves."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._closed = False

    def _open(self) -> JobQueue:
        if self._queue is None:
            self._queue = JobQueue(runs_root() / ".jobs", cluster=self._cluster)
        return self._queue

    def _watch(self) -> None:
        """Submit what waits, and hand on the results, until the launcher is closed."""
        while not self._closed:
            # The first cell of a sweep is followed by others within milliseconds.
            self._wake.wait(POLL_S)
            self._wake.clear()
            if not self._closed:
                self._wake.wait(POLL_S / 10)
                self._submit_waiting()
                self._collect()

    def _submit_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        groups: dict[Resources, list[tuple[Future[dict[str, Any]], CellJob]]] = {}
        for work, job, resources in waiting:
            groups.setdefault(resources, []).append((work, job))
        for resources, entries in groups.items():
            tasks = [(job.task, job.parent, is_trusted(), os.getcwd(), self._environment()) for _, job in entries]
            try:
                jobs = self._open().submit(CellWork(resources.nodes > 1), tasks, self._settings_of(resources))
            except Exception as error:  # noqa: BLE001 - of submitit or SLURM; the sweep waits for these futures
                for work, _ in entries:
                    work.set_exception(ClusterError(str(error)))
                continue
            with self._lock:
                self._jobs.update({work: job for (work, _), job in zip(entries, jobs, strict=True)})

    def _settings_of(self, resources: Resources) -> dict[str, Any]:
        gpus = resources.gpus(available=self._has_gpus)
        # On one machine `basereward` starts the processes of a run itself; on several, srun does.
        tasks = resources.devices if resources.nodes > 1 else 1
        processors = self._cpus * (resources.devices if tasks == 1 else 1)
        settings = {**self._settings, "nodes": resources.nodes, "tasks_per_node": tasks, "cpus_per_task": processors}
        return {**settings, "gpus_per_node": gpus} if gpus else settings

    def _environment(self) -> dict[str, str]:
        return worker_environment(runs_root())

    def _collect(self) -> None:
        for work, job in list(self._jobs.items()):
            if not job.done():
                continue
            with self._lock:
                del self._jobs[work]
            try:
                # Only the first of several processes has a result.
                work.set_result(read_outcome(job.results()[0]))
            except RunError as error:
                work.set_exception(error)
            except Exception as error:  # noqa: BLE001 - whatever submitit raises for a job without a result
                is_lost = self._open().is_lost(error)
                message = f"SLURM job {job.job_id} {'left no result' if is_lost else 'failed'}: {error}"
                work.set_exception(LostWorkerError(message) if is_lost else ClusterError(message))


class CellWork:
    """What a job runs: a process that trains a cell. submitit pickles it, and calls `checkpoint` before a requeue.

    Args:
        has_ranks: srun starts several processes of this work, which train together.
    """

    def __init__(self, has_ranks: bool) -> None:
        self.has_ranks = has_ranks
        self._worker: WorkerProcess | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"has_ranks": self.has_ranks, "_worker": None}

    def __call__(self, task: str, parent: str, trust: bool, folder: str, environment: dict[str, str]) -> dict[str, Any]:
        """Train a cell in a process of its own."""
        missing = missing_files([folder, environment["BASEREWARD_RUNS"]])
        if missing:
            return {"error": str(not_shared(identify_process()["host"], missing))}
        os.chdir(folder)
        with trusting(trust):
            return run_in_worker(task, parent=parent, environment=environment, on_start=self._keep)

    def checkpoint(self, *arguments: Any) -> Any:
        """Let the cell save, and say how the job goes on when SLURM starts it again."""
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(SAVE_S)
        return delayed(self, *arguments)

    def _keep(self, worker: WorkerProcess) -> None:
        self._worker = worker
