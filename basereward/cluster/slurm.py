"""Jobs of SLURM through submitit, or for tests processes of this machine. Needs `pip install basereward[slurm]`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from basereward.errors import ClusterError, unknown

MAX_REQUEUES = 10_000
"""How often submitit may queue a job again after its time is over: a run of weeks takes many jobs of a day."""
COMMAND_S = 60.0


class SlurmPartition(NamedTuple):
    """A partition of a SLURM cluster.

    Attributes:
        nodes: number of its machines.
        gpus: the most GPUs that one of them has.
    """

    nodes: int
    gpus: int


class JobQueue:
    """Submits jobs to SLURM, or starts them as processes of this machine.

    Args:
        folder: for the files of the jobs, on a file system that all machines share.
        cluster: `slurm`, or `local`: processes of this machine, for tests.

    Raises:
        ClusterError: submitit is not installed, or this machine cannot submit jobs to SLURM.
    """

    def __init__(self, folder: Path, *, cluster: str) -> None:
        self._submitit = _import_submitit()
        self._cluster = cluster
        self.folder = folder
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ClusterError(
                "there is no SLURM here: the command `sbatch` is not found. Run the sweep on a machine of the cluster "
                "from which jobs are submitted, or use --on local or --on ray"
            )

    def submit(
        self, work: Callable[..., Any], tasks: Sequence[Sequence[Any]], settings: Mapping[str, Any]
    ) -> list[Any]:
        """Submit a job for each task; several become one array.

        Args:
            work: a function or a callable object of a module; its method `checkpoint` is called before a job is queued
                again.
            tasks: the arguments of each call.
            settings: as of submitit's `update_parameters`.

        Returns:
            submitit's jobs: `done()`, `results()`, `cancel()` and `job_id`.

        Raises:
            ClusterError: SLURM refuses them.
        """
        submitit = self._submitit
        requeues = {"slurm_max_num_timeout": MAX_REQUEUES} if self._cluster == "slurm" else {}
        executor = submitit.AutoExecutor(folder=self.folder, cluster=self._cluster, **requeues)
        if self._cluster == "local":
            settings = {key: value for key, value in settings.items() if not key.startswith("slurm_")}
        executor.update_parameters(**settings)
        try:
            with executor.batch():
                jobs = [executor.submit(work, *task) for task in tasks]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise ClusterError(f"SLURM refuses the jobs: {_last_line(error)}") from error
        return jobs

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error of a job says that it ended without a result, and not that its work raised one."""
        return isinstance(error, self._submitit.core.utils.UncompletedJobError)


def delayed(work: Callable[..., Any], *arguments: Any) -> Any:
    """What the method `checkpoint` of a job's work returns: the call with which the job goes on."""
    return _import_submitit().helpers.DelayedSubmission(work, *arguments)


def partitions() -> dict[str, SlurmPartition]:
    """The partitions of the cluster by name; the default one has the name '' too.

    Raises:
        ClusterError: SLURM does not answer.
    """
    text = _output(["sinfo", "--noheader", "--format=%P|%D|%G"])
    return parse_partitions(text)


def parse_partitions(text: str) -> dict[str, SlurmPartition]:
    """The partitions in the output of `sinfo --format=%P|%D|%G`.

    >>> parse_partitions("cpu*|4|(null)\\ngpu|2|gpu:h100:8(S:0-1)\\ngpu|1|gpu:4")
    {'cpu': SlurmPartition(nodes=4, gpus=0), '': ..., 'gpu': SlurmPartition(nodes=3, gpus=8)}
    """
    found: dict[str, SlurmPartition] = {}
    for line in text.splitlines():
        name, nodes, resources = line.split("|", 2)
        for key in (name.rstrip("*"), *([""] if name.endswith("*") else [])):
            before = found.get(key, SlurmPartition(0, 0))
            gpus = sum(_gpus(part) for part in resources.split(",") if part.startswith("gpu"))
            found[key] = SlurmPartition(before.nodes + int(nodes), max(before.gpus, gpus))
    return found


def _gpus(resource: str) -> int:
    """The number of GPUs in a generic resource, as in `gpu:h100:8(S:0-1)`."""
    number = resource.partition("(")[0].rpartition(":")[2]
    return int(number) if number.isdigit() else 1


def check_partition(name: str | None, *, nodes: int, gpus: int, cpu_only: bool = False) -> None:
    """Check that a partition exists and has what a job needs; SLURM would leave it pending.

    Args:
        name: None for the default partition.
        nodes: machines of the job.
        gpus: of each machine.
        cpu_only: the job may run without GPUs where there are none.

    Raises:
        ClusterError: there is no such partition, or it has too few machines or GPUs.
    """
    partition = _named(name)
    title = f"partition '{name}'" if name else "the default partition"
    if nodes > partition.nodes:
        raise ClusterError(f"a cell needs {nodes} machines (trainer.nodes), and {title} has {partition.nodes}")
    if gpus > partition.gpus and not (cpu_only and partition.gpus == 0):
        raise ClusterError(
            f"a cell needs {gpus} GPUs on each machine (trainer.devices), and {title} has at most {partition.gpus}. "
            "Set trainer.devices to fewer, or launcher.partition to another one"
        )


def _named(name: str | None) -> SlurmPartition:
    """
    Raises:
        ClusterError: there is no such partition.
    """
    found = partitions()
    if (name or "") in found:
        return found[name or ""]
    allowed = [known for known in found if known]
    reason = unknown("partition", name, allowed) if name else f"no partition is the default of {', '.join(allowed)}."
    raise ClusterError(f"{reason} Set it with launcher.partition=NAME")


def _output(command: list[str]) -> str:
    """
    Raises:
        ClusterError: the command fails.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_S).stdout
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        raise ClusterError(f"SLURM does not answer: `{' '.join(command)}`: {_last_line(error)}") from error


def _last_line(error: BaseException) -> str:
    text = getattr(error, "stderr", None) or str(error)
    lines = (text.decode(errors="replace") if isinstance(text, bytes) else text).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _import_submitit() -> ModuleType:
    try:
        import submitit
    except ImportError as error:
        raise ClusterError(f"submitit is not installed ({error}): pip install 'basereward[slurm]'") from error
    return submitit
