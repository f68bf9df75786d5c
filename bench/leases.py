"""Two sweeps of one grid at once from two hosts over one folder: how often each cell is trained.

    python -m bench.leases [--rounds 20] [--cells 6]

A host is a PID namespace with a host name of its own (`unshare --pid --uts`, as root), in which a process of the other
one cannot be looked up. Both start at once and take their cells from the real queue. Training is made: it begins a run,
writes a line, sleeps for 0.1 to 0.3 s and ends the run. In every second round the process that holds a cell is killed
with SIGKILL while it trains; the other host takes the cell over after the lease.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from basereward.io.lease import EXPIRY_VARIABLE
from basereward.recipe import Cell, load_cells, recipe_sha256, recipe_yaml
from basereward.runs.locks import lock_run, training_lock, unlock_run
from basereward.runs.run_folder import RunFolder, finished_with
from basereward.sweeps.launcher import CellJob, Resources
from basereward.sweeps.scheduling.scheduler import run_cells

EXPIRY_S = 10.0
DIED = -signal.SIGKILL
BEGUN, ENDED = "begun", "ended"


class MadeTraining:
    """A launcher that begins and ends runs in this process.

    Args:
        log: one line for each begin and end.
        dies: kill this process while it trains its first cell.
    """

    spans_machines = True
    runs_here = False
    gpu_memory = None
    retries = 0

    def __init__(self, log: Path, *, dies: bool) -> None:
        self._log = log
        self._dies = dies
        self._submitted = 0

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Nothing takes time."""

    def has_room(self, resources: Resources) -> bool:
        """Whether no cell runs; always, because `submit` waits."""
        return True

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Train a cell as a worker does."""
        sha256 = recipe_sha256(job.cell.recipe)
        work: Future[dict[str, Any]] = Future()
        with training_lock(sha256):
            finished = finished_with(sha256)
            if finished is None:
                work.set_result({"run_id": self._train(job, sha256), "metrics": {}})
            else:
                work.set_result({"run_id": finished.run_id, "metrics": {}})
        return work

    def cancel(self) -> None:
        """Nothing runs outside of `submit`."""

    def close(self) -> None:
        """Nothing is held."""

    def _train(self, job: CellJob, sha256: str) -> str:
        run = RunFolder.create(
            recipe_yaml(job.cell.recipe), recipe_sha256=sha256, name=job.cell.name, parent=job.parent
        )
        lock_run(run)
        self._write(BEGUN, job.cell.name)
        self._submitted += 1
        if self._dies and self._submitted == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(random.uniform(0.1, 0.3))
        run.mark("finished")
        self._write(ENDED, job.cell.name)
        unlock_run(run)
        return run.run_id

    def _write(self, event: str, name: str) -> None:
        # One write of one line in append mode, so that the lines of two hosts do not mix.
        with self._log.open("a") as log:
            log.write(f"{event} {name}\n")


def cells_of(number: int) -> list[Cell]:
    """Cells that differ by their seed."""
    (cell,) = load_cells("basereward")
    cells = []
    for seed in range(number):
        recipe = replace(cell.recipe, seeds=replace(cell.recipe.seeds, data=seed))
        cells.append(replace(cell, name=f"seed={seed}", recipe=recipe))
    return cells


def host(name: str, folder: Path, *, cells: int, dies: bool) -> subprocess.Popen[bytes]:
    """Start a sweep on a host of its own, which begins when the file `start` exists."""
    sweep = [sys.executable, "-m", "bench.leases", "--host", name, "--folder", str(folder), "--cells", str(cells)]
    script = f"hostname {name} && {' '.join([*sweep, *(['--dies'] if dies else [])])}; exit"
    environment = os.environ | {"BASEREWARD_RUNS": str(folder / "runs"), EXPIRY_VARIABLE: str(EXPIRY_S)}
    # `--kill-child`: the end of `unshare` ends the namespace.
    command = ["unshare", "--pid", "--uts", "--mount-proc", "--fork", "--kill-child", "sh", "-c", script]
    return subprocess.Popen(command, env=environment)


def one_round(*, cells: int, dies: bool) -> dict[str, int]:
    """Two hosts over one folder.

    Returns:
        Numbers of cells that were finished once, doubled and lost; `begun` trainings.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts = [host("one", folder, cells=cells, dies=dies), host("two", folder, cells=cells, dies=False)]
        while len(list(folder.glob("ready-*"))) < 2:
            assert all(process.poll() is None for process in hosts), "a host has ended before the start"
            time.sleep(0.02)
        (folder / "start").touch()
        for process in hosts:
            process.wait()
        lines = (folder / "log").read_text().splitlines()
    return _counts(lines, [cell.name for cell in cells_of(cells)])


def _counts(lines: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    ended = Counter(line.split()[1] for line in lines if line.startswith(ENDED))
    return {
        "once": sum(ended[cell] == 1 for cell in names),
        "doubled": sum(ended[cell] > 1 for cell in names),
        "lost": sum(ended[cell] == 0 for cell in names),
        "begun": sum(line.startswith(BEGUN) for line in lines),
    }


def run_host(name: str, folder: Path, *, cells: int, dies: bool) -> None:
    """The sweep of one host."""
    grid = cells_of(cells)
    launcher = MadeTraining(folder / "log", dies=dies)
    (folder / f"ready-{name}").touch()
    while not (folder / "start").exists():
        time.sleep(0.001)
    run_cells(grid, launcher=launcher, sweep_id=f"20260314-153012-{name}")


def main() -> None:
    """Print one line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--host", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dies", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.host is not None:
        run_host(arguments.host, arguments.folder, cells=arguments.cells, dies=arguments.dies)
        return
    print("round  killed  once  doubled  lost  begun", flush=True)
    for number in range(1, arguments.rounds + 1):
        dies = number % 2 == 0
        counts = one_round(cells=arguments.cells, dies=dies)
        numbers = "  ".join(f"{value:>{len(key)}}" for key, value in counts.items())
        print(f"{number:>5}  {'yes' if dies else 'no':>6}  {numbers}", flush=True)


if __name__ == "__main__":
    main()
