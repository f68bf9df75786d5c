"""Runs the cells of a sweep on a launcher, as many at a time as it has room for; again if their machine was lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from basereward.errors import BaseRewardError, RunError, explain
from basereward.recipe import Cell, recipe_sha256
from basereward.runs.run_folder import resumable_with
from basereward.sweeps.launcher import CellJob, CellOutcome, Launcher, LostWorkerError, Resources
from basereward.sweeps.scheduling.cell_queue import RECHECK_S, CellQueue
from basereward.sweeps.scheduling.resources import needed_resources

logger = logging.getLogger(__name__)

CellFuture = Future[dict[str, Any]]
Wait = Callable[[Iterable[CellFuture], float | None], Iterable[CellFuture]]
"""Waits for the first of some futures, at most for so many seconds, and returns those that are done."""


def run_cells(cells: Sequence[Cell], *, launcher: Launcher, sweep_id: str) -> list[dict[str, Any]]:
    """Run all cells, and log each at its start and end. Cells that another sweep trains come last.

    Args:
        cells: of the sweep.
        launcher: trains the cells that are not finished.
        sweep_id: id of the sweep.

    Returns:
        A `summary_row` of each cell in order, with `error` when it failed.
    """
    with contextlib.closing(CellQueue(cells, sweep_id=sweep_id)) as queue:
        Scheduler(queue, launcher).run()
        return queue.rows


def wait_for_first(futures: Iterable[CellFuture], limit_s: float | None) -> Iterable[CellFuture]:
    """Wait for the first of some futures, at most for `limit_s` seconds, and return those that are done.

    >>> work = CellFuture()
    >>> work.set_result({})
    >>> wait_for_first([work], None) == {work}
    True
    """
    futures = list(futures)
    if not futures:
        time.sleep(limit_s or 0.0)
    return concurrent.futures.wait(futures, limit_s, concurrent.futures.FIRST_COMPLETED).done


class Scheduler:
    """Gives the cells of a queue to a launcher until all have an outcome.

    Args:
        queue: of the cells.
        launcher: that trains them.
        wait: for the first of the running cells; a simulation has another one.
    """

    def __init__(self, queue: CellQueue, launcher: Launcher, *, wait: Wait = wait_for_first) -> None:
        self._queue = queue
        self._launcher = launcher
        self._wait = wait
        self._running: dict[CellFuture, tuple[CellJob, Resources]] = {}
        self._attempts: dict[str, int] = {}

    def run(self) -> None:
        """Run until every cell of the queue has its row."""
        while True:
            while (job := self._queue.take(fits=self._fits)) is not None:
                self._submit(job, needed_resources(job.cell.recipe))
            if not self._running and self._queue.is_empty:
                return
            # Cells that other processes train are looked at again, and room that others use may become free.
            for work in self._wait(list(self._running), None if self._queue.is_empty else RECHECK_S):
                self._end(work)

    def _fits(self, cell: Cell) -> bool:
        return self._launcher.has_room(needed_resources(cell.recipe))

    def _submit(self, job: CellJob, resources: Resources) -> None:
        self._running[self._launcher.submit(job, resources)] = (job, resources)

    def _end(self, work: CellFuture) -> None:
        """Record the outcome of a cell, or submit it again."""
        job, resources = self._running.pop(work)
        error = work.exception()
        if isinstance(error, LostWorkerError) and self._may_repeat(job):
            logger.warning("%s: %s; it is submitted again", job.label, explain(error))
            self._submit(self._resumed(job), resources)
        elif error is None:
            self._queue.record(CellOutcome(job, result=work.result()))
        elif isinstance(error, BaseRewardError):
            self._queue.record(CellOutcome(job, error=explain(error)))
        elif isinstance(error, concurrent.futures.CancelledError):
            raise RunError(f"{job.label} was cancelled by launcher '{type(self._launcher).__name__}'") from error
        else:
            raise error

    def _may_repeat(self, job: CellJob) -> bool:
        attempts = self._attempts.get(job.cell.name, 0)
        self._attempts[job.cell.name] = attempts + 1
        return attempts < self._launcher.retries

    def _resumed(self, job: CellJob) -> CellJob:
        """The same job from its last checkpoint."""
        run = resumable_with(recipe_sha256(job.cell.recipe))
        return dataclasses.replace(job, resume=run.run_id if run is not None else None)
