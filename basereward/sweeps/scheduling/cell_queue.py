"""The cells of a sweep that are still to be trained, with the locks of those that are being trained."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from basereward.errors import RunError
from basereward.io.progress.displays import format_seconds
from basereward.recipe import Cell, recipe_sha256
from basereward.runs.listing import SCORE
from basereward.runs.locks import cell_lock, is_in_training
from basereward.runs.run_folder import RunFolder, finished_with, list_runs, resumable_with, unfinished_with
from basereward.runs.run_index import RunIndex
from basereward.sweeps.launcher import CellJob, CellOutcome
from basereward.sweeps.results import summary_row

logger = logging.getLogger(__name__)

RECHECK_S = 1.0
"""Seconds between looks at the cells that other sweeps train."""


class CellQueue:
    """Gives out the cells of a sweep one by one, and collects their rows.

    Sweeps of one grid at the same time, on one machine or on several, share its cells by their locks.

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
        self._index = RunIndex()
        self._pace = _Pace(_num_unfinished(cells))
        # Names of cells that other processes train, and when they are looked at again.
        self._elsewhere: set[str] = set()
        self._recheck_at = 0.0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of all cells that have one, in the order of the cells."""
        return [self._rows[cell.name] for cell in self._cells if cell.name in self._rows]

    @property
    def is_empty(self) -> bool:
        """Whether every cell has a row or an outstanding job."""
        return all(cell.name in self._rows or cell.name in self._locks for cell in self._cells)

    def take(self, fits: Callable[[Cell], bool] = lambda cell: True) -> CellJob | None:
        """The job of the next cell that must be trained; it never waits.

        A finished cell gets its row without a job. Cells that another process trains come last; they are looked at
        every `RECHECK_S` seconds.

        Args:
            fits: whether a cell could start now. Others are left, so that another sweep can train them.

        Returns:
            A job; None when there is no cell to train now.
        """
        job = self._first(fits, elsewhere=False)
        if job is not None or not self._elsewhere or time.monotonic() < self._recheck_at:
            return job
        self._recheck_at = time.monotonic() + RECHECK_S
        return self._first(fits, elsewhere=True)

    def _first(self, fits: Callable[[Cell], bool], *, elsewhere: bool) -> CellJob | None:
        """The first job of the cells that another process was seen to train, or of the others."""
        for cell in self._cells:
            is_open = cell.name not in self._rows and cell.name not in self._locks
            if not is_open or (cell.name in self._elsewhere) != elsewhere or not fits(cell):
                continue
            job = self._try(cell)
            if job is not None:
                return job
        return None

    def _try(self, cell: Cell) -> CellJob | None:
        """The job of a cell; None for one that is finished, which gets its row, or that another process trains."""
        sha256 = recipe_sha256(cell.recipe)
        # A launcher may have several cells in training, so that the locks cannot be nested `with` blocks.
        lock = contextlib.ExitStack()
        # The process of a cell may outlive its sweep, which held the lock: for a second here, for hours on a cluster.
        if not lock.enter_context(cell_lock(sha256, wait=False)) or is_in_training(sha256):
            lock.close()
            if cell.name not in self._elsewhere:
                logger.info("%s is trained by another process; it is checked again after the others", self._label(cell))
            self._elsewhere.add(cell.name)
            return None
        self._elsewhere.discard(cell.name)
        self._locks[cell.name] = lock
        job = self._job(cell)
        if job is not None:
            logger.info("%s%s", self._label(cell), self._pace)
            self._pace.start()
        return job

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

    def close(self) -> None:
        """Release the locks of cells without an outcome, so that other sweeps can train them."""
        while self._locks:
            _, lock = self._locks.popitem()
            lock.close()

    def _job(self, cell: Cell) -> CellJob | None:
        """The job of a locked cell; None for a finished cell, which gets its row."""
        sha256 = recipe_sha256(cell.recipe)
        runs = self._index.runs_of(sha256)
        finished = finished_with(sha256, runs=runs)
        if finished is not None:
            self._finish(cell, _skipped_row(cell, finished, backbones=self._backbones))
            return None
        interrupted = resumable_with(sha256, runs=runs)
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
