"""What the processes of a cluster's machines need to work on the runs of one folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from basereward.errors import ClusterError

PREFIXES = ("BASEREWARD_", "MLFLOW_", "HF_", "HUGGING_FACE_")
"""Variables with these prefixes decide where runs, models and records are, and who may read them."""
NAMES = ("OMP_NUM_THREADS", "PYTHONPATH", "WANDB_API_KEY", "WANDB_BASE_URL")
PREEMPTIBLE = "BASEREWARD_PREEMPTIBLE"
"""Environment variable of machines that may be taken away from all processes of a run."""
SENTINEL = ".sentinel-"


def worker_environment(runs: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that a process on another machine needs besides its own.

    Args:
        runs: the folder of runs.
        environment: variables of this process.

    >>> worker_environment(Path("/data/runs"), {"MLFLOW_TRACKING_URI": "http://host", "HOME": "/root"})
    {'MLFLOW_TRACKING_URI': 'http://host', 'BASEREWARD_RUNS': '/data/runs', 'BASEREWARD_PREEMPTIBLE': '1'}
    """
    chosen = {name: value for name, value in environment.items() if name.startswith(PREFIXES) or name in NAMES}
    # A relative folder would start from the working folder of the other process.
    return {**chosen, "BASEREWARD_RUNS": str(runs.absolute()), PREEMPTIBLE: "1"}


class Sentinel:
    """A file in the folder of runs, by which other machines see that they have the same folder. A context manager.

    Args:
        runs: the folder of runs.

    >>> import tempfile
    >>> with Sentinel(Path(tempfile.mkdtemp())) as file:
    ...     missing_files([str(file), "/not/there"])
    ['/not/there']
    """

    def __init__(self, runs: Path) -> None:
        runs.mkdir(parents=True, exist_ok=True)
        self.file = runs.absolute() / f"{SENTINEL}{secrets.token_hex(8)}"

    def __enter__(self) -> Path:
        self.file.touch()
        return self.file

    def __exit__(self, *error: object) -> None:
        self.file.unlink(missing_ok=True)


def missing_files(paths: list[str]) -> list[str]:
    """Those of some paths that do not exist on this machine."""
    return [path for path in paths if not os.path.exists(path)]


def not_shared(machine: str, missing: list[str]) -> ClusterError:
    """The error for a machine that does not share what a cell needs.

    >>> not_shared("node-3", ["/shared/runs"])
    ClusterError("machine 'node-3' does not have /shared/runs...")
    """
    return ClusterError(
        f"machine '{machine}' does not have {', '.join(missing)}. The cells of a sweep share the folder of runs and "
        "the working folder: set BASEREWARD_RUNS to a folder on a file system that all machines mount at the same "
        "path, and start the sweep from another one"
    )
