"""Assigns the cells of a sweep to processes."""

from __future__ import annotations

import json
from typing import Any

from basereward.errors import RunError
from basereward.recipe import Cell, recipe_yaml
from basereward.sweeps.worker_process import WorkerProcess


class CellProcesses:
    """Trains cells one after another, each in a process of its own.

    Consecutive probes share a process, and in it the data and the backbone, until one of them fails.
    """

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        self._used = False  # whether the process has trained a cell

    def train(self, cell: Cell, *, resume: str | None, parent: str) -> dict[str, Any]:
        """Train a cell and return its result.

        Args:
            cell: with its recipe, title and axes.
            resume: id of a stopped run to resume.
            parent: id of the sweep.

        Raises:
            RunError: the cell failed, or its process died; the message is that of the process.
        """
        recipe = cell.recipe
        if self._used and not recipe.probe:
            self.close()
        process = self.start()
        self._used = True
        task = {"recipe": recipe_yaml(recipe), "title": cell.title, "axes": cell.axes}
        try:
            result = process.run(json.dumps(task), parent=parent, resume=resume)
        except RunError:  # a failed process may hold memory, or a GPU in a fault
            self.close()
            raise
        if not recipe.probe:
            self.close()
        return result

    def start(self) -> WorkerProcess:
        """Return the process of the next cell. When it is started early, it imports while the caller prepares."""
        self._process = self._process or WorkerProcess("basereward.sweeps.cell_worker")
        return self._process

    def interrupt(self) -> None:
        """Stop the cell in training, as Ctrl-C does."""
        if self._process is not None:
            self._process.interrupt()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process, self._used = None, False
