"""A sweep of 1,000 cells on 256 GPUs whose machines fail, in virtual time: what the scheduler does and what it costs.

    python -m bench.clusters [--cells 1000] [--gpus 256] [--hours-between-failures 2]

Scheduler, queue of cells, leases and folders of runs are those of a real sweep. Only the cells are made: one takes 1 to
6 hours by the clock of the simulation, saves a checkpoint every 15 minutes, and is lost at random with its GPU. A lost
cell is submitted again and goes on from its checkpoint. It prints how often each cell was finished, how many were lost,
how many GPU hours were repeated, and the seconds of the scheduler for each cell.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from basereward.recipe import Cell, load_cells, recipe_sha256
from basereward.runs.run_folder import RunFolder
from basereward.sweeps.launcher import CellJob, LostWorkerError, Resources
from basereward.sweeps.scheduling.cell_queue import CellQueue
from basereward.sweeps.scheduling.scheduler import Scheduler

CHECKPOINT_H = 0.25
HOURS = (1.0, 6.0)
START_H = 0.05
"""Hours from the start of a process to its first step: a 7B model is loaded in minutes."""

Work = Future[dict[str, Any]]


class SimulatedCluster:
    """A launcher whose cells take virtual time.

    Args:
        gpus: of the cluster; a cell has one.
        failure_h: mean hours between two failures of one GPU.
        seed: of lengths and failures.
    """

    spans_machines = True
    runs_here = False
    gpu_memory = None
    retries = 1000

    def __init__(self, *, gpus: int, failure_h: float, seed: int = 0) -> None:
        self.now_h = 0.0
        self.failures = 0
        self.repeated_h = 0.0
        self.busy_h = 0.0
        self.finished: Counter[str] = Counter()
        self.most_running = 0
        # Seconds of the processor in this class, which are not those of the scheduler.
        self.own_s = 0.0
        self._free = gpus
        self._failure_h = failure_h
        self._random = random.Random(seed)
        self._left_h: dict[str, float] = {}
        self._runs: dict[str, RunFolder] = {}
        # The end of each running cell: its time, a number that orders equal times, its future and job, how long it
        # lasted, and whether it is a failure.
        self._ends: list[tuple[float, int, Work, CellJob, float, bool]] = []
        self._submitted = 0

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Nothing takes time."""

    def has_room(self, resources: Resources) -> bool:
        """Whether a GPU is free."""
        return self._free > 0

    def submit(self, job: CellJob, resources: Resources) -> Work:
        """Let a cell begin now, and decide when it ends or fails."""
        assert self._free > 0, "more cells than GPUs"
        began = time.process_time()
        name = job.cell.name
        left_h = self._left_h.setdefault(name, self._random.uniform(*HOURS))
        self._begin(job)
        until_failure_h = self._random.expovariate(1 / self._failure_h)
        fails = until_failure_h < START_H + left_h
        lasts_h = min(until_failure_h, START_H + left_h)
        work: Work = Future()
        self._submitted += 1
        heapq.heappush(self._ends, (self.now_h + lasts_h, self._submitted, work, job, lasts_h, fails))
        self._free -= 1
        self.most_running = max(self.most_running, len(self._ends))
        self.own_s += time.process_time() - began
        return work

    def wait(self, futures: Iterable[Work], limit_s: float | None) -> Iterable[Work]:
        """Go on to the next end of a cell."""
        began = time.process_time()
        work = self._end_next()
        self.own_s += time.process_time() - began
        return [work]

    def _end_next(self) -> Work:
        self.now_h, _, work, job, lasted_h, fails = heapq.heappop(self._ends)
        self._free += 1
        self.busy_h += lasted_h
        name = job.cell.name
        run = self._runs[name]
        if not fails:
            self.finished[name] += 1
            run.mark("finished")
            work.set_result({"run_id": run.run_id, "metrics": {}})
            return work
        self.failures += 1
        trained_h = max(lasted_h - START_H, 0.0)
        saved_h = trained_h // CHECKPOINT_H * CHECKPOINT_H
        self.repeated_h += trained_h - saved_h
        self._left_h[name] -= saved_h
        if saved_h:
            (run.checkpoints / "last.ckpt").touch()
        run.mark("killed")
        work.set_exception(LostWorkerError("its GPU failed"))
        return work

    def cancel(self) -> None:
        """Nothing runs outside of `wait`."""

    def close(self) -> None:
        """Nothing is held."""

    def _begin(self, job: CellJob) -> None:
        name = job.cell.name
        if job.resume is not None:
            assert job.resume == self._runs[name].run_id, "a cell resumes the run of another one"
            self._runs[name].mark("running")
            return
        sha256 = recipe_sha256(job.cell.recipe)
        self._runs[name] = RunFolder.create(f"name: {name}\n", recipe_sha256=sha256, name=name, parent=job.parent)


def simulate(*, cells: int, gpus: int, failure_h: float) -> dict[str, float]:
    """Run a sweep of made cells in an empty folder of runs.

    Args:
        cells: number of cells.
        gpus: of the cluster.
        failure_h: mean hours between two failures of one GPU.

    >>> result = simulate(cells=3, gpus=2, failure_h=2.0)
    >>> result["finished once"], result["lost"], result["doubled"]
    (3, 0, 0)
    """
    (cell,) = load_cells("basereward")
    grid = [_cell(cell, number) for number in range(cells)]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BASEREWARD_RUNS": folder}):
        cluster = SimulatedCluster(gpus=gpus, failure_h=failure_h)
        began = time.process_time()
        queue = CellQueue(grid, sweep_id="20260314-153012-9f2c41")
        Scheduler(queue, cluster, wait=cluster.wait).run()
        seconds = time.process_time() - began - cluster.own_s
        rows = Counter(row["name"] for row in queue.rows if row["status"] == "finished")
        folders = len([path for path in Path(folder).iterdir() if not path.name.startswith(".")])
    once = sum(cluster.finished[cell.name] == rows[cell.name] == 1 for cell in grid)
    return {
        "finished once": once,
        "lost": sum(not cluster.finished[cell.name] for cell in grid),
        "doubled": sum(cluster.finished[cell.name] > 1 for cell in grid),
        "runs": folders,
        "failures": cluster.failures,
        "most at a time": cluster.most_running,
        "hours": cluster.now_h,
        "GPU hours": cluster.busy_h,
        "repeated GPU hours": cluster.repeated_h,
        "scheduler seconds a cell": seconds / cells,
    }


def _cell(cell: Cell, number: int) -> Cell:
    recipe = replace(cell.recipe, seeds=replace(cell.recipe.seeds, data=number))
    return replace(cell, name=f"seed={number}", recipe=recipe)


def main() -> None:
    """Print the result as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--gpus", type=int, default=256)
    parser.add_argument("--hours-between-failures", type=float, default=2.0)
    arguments = parser.parse_args()
    failure_h = arguments.hours_between_failures
    result = simulate(cells=arguments.cells, gpus=arguments.gpus, failure_h=failure_h)
    print(f"{arguments.cells} cells on {arguments.gpus} GPUs, a failure every {failure_h:g} GPU hours")
    for name, value in result.items():
        print(f"{name:>26}  {value:,.3f}" if isinstance(value, float) else f"{name:>26}  {value:,}")


if __name__ == "__main__":
    main()
