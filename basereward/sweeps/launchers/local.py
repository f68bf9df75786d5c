"""Runs cells on this machine, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from basereward.errors import RunError
from basereward.sweeps.launcher import CellJob, CellOutcome
from basereward.sweeps.worker_process import WorkerProcess


class Local:
    """Trains cells one after another, each in a process of its own.

    Consecutive probes share a process, and in it the data and the backbone, until one of them fails.

    >>> launcher = Local()
    >>> list(launcher.run([]))  # without a job no process is started
    []
    >>> launcher.close()
    """

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        # Whether the process has trained a cell: one that was only prepared can take any cell.
        self._used = False

    def prepare(self) -> None:
        """Start the process of the first cell, which imports torch while the sweep prepares its tracking."""
        self._start()

    def run(self, jobs: Iterable[CellJob]) -> Iterator[CellOutcome]:
        """Train one cell at a time; a job is taken when the cell before it has ended."""
        for job in jobs:
            yield self._train(job)

    def cancel(self) -> None:
        """Send SIGINT to the process of the cell; `close` waits for its end."""
        if self._process is not None:
            self._process.interrupt()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process, self._used = None, False

    def _train(self, job: CellJob) -> CellOutcome:
        is_probe = job.cell.recipe.probe
        # A process that has run a probe holds its backbone, and only its end surely frees that memory.
        if self._used and not is_probe:
            self.close()
        process = self._start()
        self._used = True
        try:
            result = process.run(job.task, parent=job.parent, resume=job.resume)
        except RunError as error:
            # A failed process may hold memory, or a GPU in a fault, which would make the next cells fail as well.
            self.close()
            return CellOutcome(job, error=str(error))
        if not is_probe:
            self.close()
        return CellOutcome(job, result=result)

    def _start(self) -> WorkerProcess:
        self._process = self._process or WorkerProcess("basereward.sweeps.cell_worker")
        return self._process
