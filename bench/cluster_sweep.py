"""Run the same sweep with every launcher, without failures and with killed processes: `python -m bench.cluster_sweep`.

    python -m bench.cluster_sweep [--experiment head_depth] [--steps 20] [KEY=VALUE ...]

The launchers are processes of this machine, a local Ray cluster of two workers, and submitit's local executor in place
of SLURM. In some cases SIGKILL ends the worker of a cell after the cell's first checkpoint, or the command itself,
which is then run again. Each case prints a line: the number of finished cells, the number of runs (a resumed cell keeps
its run), whether the hashes of the recipes and all bits of the test metrics are those of the first line, and the
seconds with imports. Two cells run at a time. Times depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from basereward.runs.run_folder import RunFolder, list_runs
from tests.helpers.ray_servers import running_ray

POLL_S = 0.05
OVERRIDES = ("trainer.checkpoint_every=5", "trainer.validations=2", "trainer.log_every=5")


@dataclass(frozen=True)
class Case:
    """A sweep: on which launcher, and what is killed.

    >>> Case("ray", "worker").title
    'ray, worker killed'
    """

    launcher: Literal["local", "ray", "slurm"]
    killed: Literal["worker", "command"] | None = None

    @property
    def title(self) -> str:
        """The first column."""
        return self.launcher if self.killed is None else f"{self.launcher}, {self.killed} killed"


CASES = (
    *(Case("local"), Case("ray"), Case("slurm")),
    *(Case("ray", "worker"), Case("slurm", "worker"), Case("ray", "command"), Case("slurm", "command")),
)


@dataclass(frozen=True)
class Measured:
    """What a sweep left.

    Attributes:
        finished: number of cells.
        runs: number of run folders.
        hashes: of the recipe of each cell, by its name.
        metrics: of the test of each cell as JSON, by its name.
        seconds: of all its commands.
    """

    finished: int
    runs: int
    hashes: dict[str, str]
    metrics: dict[str, str]
    seconds: float


def measure(case: Case, sweep: Sequence[str], *, folder: Path, address: str) -> Measured:
    """Run a sweep in a folder of its own.

    Args:
        case: which launcher, and what is killed.
        sweep: the words of the command.
        folder: of all sweeps, which share a cache.
        address: of the Ray cluster.
    """
    own = folder / case.title.replace(", ", "-").replace(" ", "-")
    options = {
        "local": ["--on", "local", "launcher.cells=2"],
        "ray": ["--on", "ray", "--address", address],
        "slurm": ["--on", "slurm", "launcher.cluster=local", "launcher.at_a_time=2"],
    }
    command = [sys.executable, "-m", "basereward", *sweep, *options[case.launcher], "--json"]
    variables = {"BASEREWARD_RUNS": own / "runs", "BASEREWARD_CACHE": folder / "cache"}
    environment = os.environ | {name: str(path) for name, path in variables.items()}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{own / 'mlflow.db'}"
    own.mkdir()
    began = time.perf_counter()
    process = _start(command, environment, log=own / "log")
    if case.killed is not None:
        run = _first_checkpoint(own / "runs", process)
        training = psutil.Process(int(run.status["process"]["pid"]))
        if case.killed == "worker":
            # The process that the cluster has started; the training in it ends with its parent.
            training.parent().kill()
        else:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = _start(command, environment, log=own / "log")
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{case.title}: exit status {process.returncode}\n{(own / 'log').read_text()[-4000:]}")
    return _measured(json.loads(printed), own / "runs", seconds=time.perf_counter() - began)


def _start(command: list[str], environment: dict[str, str], *, log: Path) -> subprocess.Popen[str]:
    with log.open("a") as errors:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)


def _first_checkpoint(root: Path, process: subprocess.Popen[str]) -> RunFolder:
    """Wait until a cell has a checkpoint and is not finished."""
    while process.poll() is None:
        for run in list_runs(root=root):
            if (run.checkpoints / "last.ckpt").exists() and run.state == "running":
                return run
        time.sleep(POLL_S)
    raise SystemExit("the sweep has ended before it could be disturbed; give more --steps")


def _measured(result: dict[str, Any], root: Path, *, seconds: float) -> Measured:
    hashes, metrics = {}, {}
    for cell in result["cells"]:
        hashes[cell["name"]] = RunFolder(root / cell["run_id"]).status["recipe_sha256"]
        tested = {name: value for name, value in cell["metrics"].items() if name.startswith("test/")}
        metrics[cell["name"]] = json.dumps(tested, sort_keys=True)
    finished = sum(cell["status"] in ("finished", "skipped") for cell in result["cells"])
    return Measured(finished, len(list_runs(root=root)), hashes, metrics, seconds)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="head_depth")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="further changes of the recipe")
    arguments = parser.parse_args()
    sweep = ["sweep", arguments.experiment, f"trainer.steps={arguments.steps}", *OVERRIDES, *arguments.overrides]
    print(f"{'':24}{'finished':>9}{'runs':>6}{'hashes':>8}{'test metrics':>14}{'seconds':>9}", flush=True)
    first: Measured | None = None
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as name:
        folder = Path(name)
        with running_ray(cpus=2, log=folder / "ray.log") as address:
            for case in CASES:
                found = measure(case, sweep, folder=folder, address=address)
                first = first or found
                hashes = "same" if found.hashes == first.hashes else "differ"
                metrics = "same bits" if found.metrics == first.metrics else "differ"
                counts = f"{found.finished:>4} of {len(found.hashes)}{found.runs:>6}"
                print(f"{case.title:24}{counts:>15}{hashes:>8}{metrics:>14}{found.seconds:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
