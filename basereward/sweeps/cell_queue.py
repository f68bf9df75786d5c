"""The cells of a sweep that are still to be trained, with the locks of those that are being trained."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.errors import RunError
from basereward.io.progress.displays import format_seconds
from basereward.recipe import Cell, recipe_sha256
from basereward.runs.listing import SCORE
from basereward.runs.locks import cell_lock
from basereward.runs.run_folder import (
    RunFolder,
    finished_with,
    list_runs,
    resumable_with,
    running_with,
    unfinished_with,
)
from basereward.sweeps.launcher import CellJob, CellOutcome, Launcher
from basereward.sweeps.results import summary_row

logger = logging.getLogger(__name__)

END_LIMIT_S = 15.0
"""Seconds that the process of a cell has to end after its sweep was killed; it looks twice a second."""


def run_cells(cells: Sequence[Cell], *, launcher: Launcher, sweep_id: str) -> list[dict[str, Any]]:
    """Run all cells, and log each at its start and end.

    The first round skips cells that another sweep trains; the second round waits for them.

    Args:
        cells: of the sweep.
        launcher: trains the cells that are not finished.
        sweep_id: id of the sweep.

    Returns:
        A `summary_row` of each cell in order, with `error` when it failed.

    Raises:
        RunError: the launcher ended a round without the outcome of one of its cells.
    """
    with contextlib.closing(CellQueue(cells, sweep_id=sweep_id)) as queue:
        for wait in (False, True):
            for outcome in launcher.run(queue.jobs(wait=wait)):
                queue.record(outcome)
            queue.check_complete(launcher)
        return queue.rows


class CellQueue:
    """Gives out the cells of a sweep one by one, and collects their rows.

    The lock of a cell is held from when its job is given out until its outcome is recorded.

    Args:
        cells: of the sweep.
        sweep_id: id of the sweep.
    """

    def __init__(self, cells: Sequence[Cell], *, sweep_id: str) -> None:
        self._cells = cells
        self._numbers = {cell.name: number for number, cell in enumerate(cells, start=1)}
        self._sweep_id = sweep_id
        self._rows: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, contextlib.ExitStack] = {}
        # Cells of one sweep mostly share a backbone, whose files take seconds to hash.
        self._backbones: dict[str, Mapping[str, str]] = {}
        self._pace = _Pace(_num_unfinished(cells))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all cells that have one, in the order of the cells."""
        return [self._rows[cell.name] for cell in self._cells if cell.name in self._rows]

    def jobs(self, *, wait: bool) -> Iterator[CellJob]:
        """Yield a job for every cell that has no row yet and must be trained.

        A finished cell gets its row without a job.

        Args:
            wait: wait for a cell that another sweep trains; otherwise such a cell is left for the next call.
        """
        for cell in self._cells:
            if cell.name in self._rows:
                continue
            # A launcher may have several cells in training, so that the locks cannot be nested `with` blocks.
            lock = contextlib.ExitStack()
            is_ours = lock.enter_context(cell_lock(recipe_sha256(cell.recipe), wait=wait))
            if not is_ours:
                lock.close()
                logger.info("%s is trained by another process; it is checked again after the others", self._label(cell))
                continue
            self._locks[cell.name] = lock
            job = self._job(cell)
            if job is not None:
                logger.info("%s%s", self._label(cell), self._pace)
                self._pace.start()
                yield job

    def record(self, outcome: CellOutcome) -> None:
        """Make the row of a cell from the outcome of its job."""
        cell = outcome.job.cell
        if outcome.result is not None:
            self._finish(cell, summary_row(cell.name, outcome.result["run_id"], "finished", outcome.result))
            return
        logger.error("cell %s failed: %s", cell.name, outcome.error)
        run_id = outcome.job.resume
        if run_id is None:
            # The worker created the run before it failed, and only its folder names it: a dead process returns nothing.
            failed = unfinished_with(recipe_sha256(cell.recipe))
            run_id = failed.run_id if failed is not None else None
        self._finish(cell, summary_row(cell.name, run_id, "failed", {}) | {"error": outcome.error})

    def check_complete(self, launcher: Launcher) -> None:
        """Check that every job that was given out has an outcome.

        Raises:
            RunError: the launcher has lost one. Its cell would be missing in the result as if it were not in the grid.
        """
        if self._locks:
            raise RunError(
                f"launcher '{type(launcher).__name__}' returned no outcome for {', '.join(self._locks)}. Its `run` "
                "must yield one CellOutcome for every job"
            )

    def close(self) -> None:
        """Release the locks of cells without an outcome, so that other sweeps can train them."""
        while self._locks:
            _, lock = self._locks.popitem()
            lock.close()

    def _job(self, cell: Cell) -> CellJob | None:
        """The job of a locked cell; None for a finished cell, which gets its row."""
        sha256 = recipe_sha256(cell.recipe)
        # When a sweep is killed, its lock on the cell is free before the process of the cell has ended.
        deadline = time.monotonic() + END_LIMIT_S
        while running_with(sha256) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        finished = finished_with(sha256)
        if finished is not None:
            self._finish(cell, _skipped_row(cell, finished, backbones=self._backbones))
            return None
        interrupted = resumable_with(sha256)
        resume = interrupted.run_id if interrupted is not None else None
        return CellJob(cell, self._sweep_id, resume, label=self._place(cell))

    def _finish(self, cell: Cell, row: dict[str, Any]) -> None:
        self._rows[cell.name] = row
        self._locks.pop(cell.name).close()
        score = row["metrics"].get(SCORE)
        scored = f", {SCORE} {score:.4f}" if score is not None else ""
        logger.info("%s %s%s", self._label(cell), row["status"], scored)
        if row["status"] != "skipped":
            self._pace.finish(cell, score)

    def _place(self, cell: Cell) -> str:
        return f"cell {self._numbers[cell.name]} of {len(self._cells)}"

    def _label(self, cell: Cell) -> str:
        return f"{self._place(cell)}: {cell.name}"


class _Pace:
    """How fast the cells of a sweep end, for the time that is left.

    Args:
        to_train: number of cells without a finished run.

    >>> pace = _Pace(2)
    >>> str(pace)
    ''
    """

    def __init__(self, to_train: int) -> None:
        self._to_train = to_train
        self._ended = 0
        self._began: float | None = None
        self._last = ""

    def start(self) -> None:
        """A cell starts. Only the first one counts: a launcher may train several at a time."""
        if self._began is None:
            self._began = time.monotonic()

    def finish(self, cell: Cell, score: float | None) -> None:
        """A cell has ended.

        Args:
            cell: that has ended.
            score: None for one that failed.
        """
        self._ended += 1
        self._last = f"; the last, {cell.name}, " + ("has no score" if score is None else f"scored {score:.4f}")

    def __str__(self) -> str:
        if self._began is None or not self._ended:
            return ""
        left = (self._to_train - self._ended) * (time.monotonic() - self._began) / self._ended
        return f"{self._last}; about {format_seconds(max(left, 0.0))} to the end"


def _num_unfinished(cells: Sequence[Cell]) -> int:
    """The number of cells without a finished run."""
    finished = set()
    for run in list_runs():
        # Another process may delete a run after it was listed.
        with contextlib.suppress(RunError):
            if run.state == "finished":
                finished.add(run.status["recipe_sha256"])
    return sum(recipe_sha256(cell.recipe) not in finished for cell in cells)


def _skipped_row(cell: Cell, finished: RunFolder, *, backbones: dict[str, Mapping[str, str]]) -> dict[str, Any]:
    """The row of a finished cell, with a warning when its backbone has changed since."""
    row = summary_row(cell.name, finished.run_id, "skipped", finished.result() or {})
    changes = _backbone_changes(finished, cell, known=backbones)
    if not changes:
        return row
    logger.warning(
        "cell %s is finished and is not trained again, although its backbone has changed since: %s. To train it on the "
        "present backbone, remove %s",
        cell.name,
        "; ".join(changes),
        finished.path,
    )
    return row | {"backbone_changed": changes}


def _backbone_changes(run: RunFolder, cell: Cell, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """What has changed in the backbone of a run since it was trained; see `run_identity.backbone_changes`."""
    # Runs of an early version recorded no identity, so that there is nothing to compare with.
    if not run.identity.exists():
        return []
    # Imported here, because it loads transformers, which a sweep of finished cells does not need.
    from basereward.training.run_identity import backbone_changes

    return backbone_changes(run, cell.recipe, known=known)
