"""Runs cells on a Ray cluster: each is a task with its GPUs. One whose machine is lost is submitted again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated, Any

from annotated_types import Interval

from basereward.cluster.ray_cluster import ADDRESS_VARIABLE, CPU, GPU, MEMORY, RayCluster, check_address, connect
from basereward.cluster.shared_place import Sentinel, missing_files, not_shared, worker_environment
from basereward.errors import ClusterError, RunError
from basereward.io.processes import identify_process
from basereward.recipe.trust import is_trusted, trusting
from basereward.runs.run_folder import runs_root
from basereward.sweeps.launcher import CellJob, LostWorkerError, Resources
from basereward.sweeps.worker_process import read_outcome, run_in_worker

END_S = 60.0
"""Seconds that the cells have to end after `cancel`."""
CHECK_S = 120.0
"""Seconds that each machine has to say what it sees of the shared folders."""


class Ray:
    """Trains each cell in a task of a Ray cluster whose machines share the folder of runs.

    Args:
        address: `HOST:PORT` of the head of a running cluster, or `auto`; null: $RAY_ADDRESS, or else a cluster that is
            started on this machine.
        per_gpu: cells that share a GPU, for small ones.
        cpus: processors of a cell without GPUs, for each of its processes.
        memory: GiB of a machine's memory that Ray reserves for a cell; null: it is not counted.
        gpu_memory: GiB of a GPU, by which a cell without `trainer.devices` gets as many GPUs as it needs; null: one.
        retries: how often a cell whose worker or machine was lost is tried again, from its last checkpoint.
        autoscaling: the cluster adds machines when tasks wait, so that what it has now is no limit.
        working_dir: folder that Ray copies to every machine, for rows with relative paths; null: the machines share the
            working folder too.

    Raises:
        ClusterError: the address is not valid.

    >>> Ray(address="head:6379").retries
    3
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        per_gpu: Annotated[int, Interval(ge=1)] = 1,
        cpus: Annotated[float, Interval(gt=0)] = 1.0,
        memory: Annotated[float, Interval(gt=0)] | None = None,
        gpu_memory: Annotated[float, Interval(gt=0)] | None = None,
        retries: Annotated[int, Interval(ge=0)] = 3,
        autoscaling: bool = False,
        working_dir: str | None = None,
    ) -> None:
        if address is not None:
            check_address(address)
        self.retries = retries
        self.gpu_memory = gpu_memory
        self.runs_here = address is None and not os.environ.get(ADDRESS_VARIABLE)
        self.spans_machines = False
        self._address = address
        self._per_gpu = per_gpu
        self._cpus = cpus
        self._memory = memory
        self._autoscaling = autoscaling
        self._working_dir = working_dir
        self._cluster: RayCluster | None = None
        self._total: dict[str, float] = {}
        # Ray's reference of each running task, and what it reserves.
        self._running: dict[Future[dict[str, Any]], tuple[Any, dict[str, float]]] = {}

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Join or start the cluster.

        Raises:
            ClusterError: Ray is not installed; there is no cluster at the address; it lacks what a cell needs; or its
                machines cannot share what this one uses.
        """
        for resources in needed:
            if resources.nodes > 1:
                raise ClusterError(
                    f"a cell needs {resources.nodes} machines (trainer.nodes), and a Ray task runs on one. Use --on "
                    "slurm, or set trainer.nodes=1"
                )
        self._cluster = connect(self._address)
        runs_root().mkdir(parents=True, exist_ok=True)
        self._total = self._cluster.resources()
        machines = [node for node in self._cluster.ray.nodes() if node["Alive"]]
        self.spans_machines = len(machines) > 1 or self._autoscaling
        if not self._autoscaling:
            for resources in dict.fromkeys(needed):
                self._cluster.require(self._demand(resources))
        # A cluster that was started here has this machine alone.
        if self._cluster.address is not None:
            self._check_folders()

    def has_room(self, resources: Resources) -> bool:
        """Whether the cluster has what the cell needs beside the cells that run. Tasks of others are not counted."""
        if self._cluster is None or self._autoscaling:
            # Tasks that wait make the cluster grow.
            return True
        demand = self._demand(resources)
        for name, amount in demand.items():
            used = sum(reserved.get(name, 0.0) for _, reserved in list(self._running.values()))
            if used + amount > self._total.get(name, 0.0) + 1e-9:
                return False
        return True

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Train a cell in a task of the cluster."""
        if self._cluster is None:
            self.prepare([resources])
        cluster = self._cluster
        assert cluster is not None
        demand = self._demand(resources)
        task = cluster.ray.remote(
            num_cpus=demand.get(CPU, 0.0),
            num_gpus=demand.get(GPU, 0.0),
            memory=demand.get(MEMORY),
            # The scheduler of the sweep counts the attempts of a cell; retries by Ray would multiply them.
            max_retries=0,
            runtime_env=self._runtime_env(),
        )(_train)
        reference = task.options(name=job.cell.name).remote(job.task, job.parent, is_trusted(), self._folder())
        work: Future[dict[str, Any]] = Future()
        self._running[work] = (reference, demand)
        reference.future().add_done_callback(lambda done: self._finish(work, done, cluster))
        return work

    def cancel(self) -> None:
        """Stop every task, as Ctrl-C does."""
        if self._cluster is not None:
            for reference, _ in list(self._running.values()):
                self._cluster.ray.cancel(reference, force=False)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            references = [reference for reference, _ in self._running.values()]
            if references:
                cluster.ray.wait(references, num_returns=len(references), timeout=END_S)
            cluster.close()
        self._running.clear()

    def _finish(self, work: Future[dict[str, Any]], done: Future[Any], cluster: RayCluster) -> None:
        """Hand on the outcome of a task. Ray calls it in a thread of its own."""
        self._running.pop(work, None)
        error = done.exception()
        if error is not None:
            line = (str(error).strip() or type(error).__name__).splitlines()[-1]
            is_lost = cluster.is_lost(error)
            fault = f"its Ray task {'was lost' if is_lost else 'failed'}: {line}"
            work.set_exception(LostWorkerError(fault) if is_lost else ClusterError(fault))
            return
        try:
            work.set_result(read_outcome(done.result()))
        except RunError as failure:
            work.set_exception(failure)

    def _demand(self, resources: Resources) -> dict[str, float]:
        """What a task of the cell reserves of one machine."""
        gpus = resources.gpus(available=self._total.get(GPU, 0.0) > 0 or self._autoscaling)
        demand: dict[str, float] = {CPU: self._cpus * resources.devices}
        if gpus:
            demand = {GPU: 1 / self._per_gpu if gpus == 1 else float(gpus)}
        if self._memory is not None:
            demand[MEMORY] = self._memory * 2**30
        return demand

    def _folder(self) -> str | None:
        """The working folder of the cells; None: the copy that Ray makes."""
        return None if self._working_dir is not None else os.getcwd()

    def _runtime_env(self) -> dict[str, Any]:
        shipped = {"working_dir": self._working_dir} if self._working_dir is not None else {}
        return {"env_vars": worker_environment(runs_root()), **shipped}

    def _check_folders(self) -> None:
        """
        Raises:
            ClusterError: a machine does not have the folder of runs, or the working folder.
        """
        assert self._cluster is not None
        with Sentinel(runs_root()) as file:
            paths = [str(file), *([folder] if (folder := self._folder()) is not None else [])]
            for machine, missing in self._cluster.missing_files(paths, timeout_s=CHECK_S).items():
                raise not_shared(machine, missing)


def _train(task: str, parent: str, trust: bool, folder: str | None) -> dict[str, Any]:
    """Train a cell in a process of this machine; in a task of Ray."""
    # The machine may have joined the cluster after the sweep had checked the others.
    needed = [str(runs_root()), *([folder] if folder is not None else [])]
    if missing := missing_files(needed):
        return {"error": str(not_shared(identify_process()["host"], missing))}
    if folder is not None:
        os.chdir(folder)
    with trusting(trust):
        return run_in_worker(task, parent=parent)
