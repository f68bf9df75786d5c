"""Which process trains which cell of a sweep."""

from __future__ import annotations

import json
from typing import Any

from basereward.errors import RunError
from basereward.recipe import Cell, recipe_yaml
from basereward.sweeps.worker_process import WorkerProcess


class CellProcesses:
    """Trains cells, one after another, each in a process of its own. Probes that follow each other share one, and in it
    what they read, until one fails."""

    def __init__(self) -> None:
        self._child: WorkerProcess | None = None
        self._worked = False  # whether it has trained a cell

    def train(self, cell: Cell, *, resume: str | None, parent: str) -> dict[str, Any]:
        """Trains a cell and returns its result.

        Args:
            cell: its run gets its title and its axes.
            resume: id of a stopped run that goes on.
            parent: id of the sweep.

        Raises:
            RunError: it failed, or its process has died; the message is its own.
        """
        recipe = cell.recipe
        if self._worked and not recipe.probe:
            self.close()
        child, self._worked = self.start(), True
        asked = {"recipe": recipe_yaml(recipe), "title": cell.title, "axes": cell.axes}
        try:
            result = child.ask(json.dumps(asked), parent=parent, resume=resume)
        except RunError:
            self.close()
            raise
        if not recipe.probe:
            self.close()
        return result

    def start(self) -> WorkerProcess:
        """The process of the next cell: asked for early, its imports and the caller's go on together."""
        self._child = self._child or WorkerProcess("basereward.sweeps.cell_worker")
        return self._child

    def interrupt(self) -> None:
        """Stops the cell that is trained, as Ctrl-C does."""
        if self._child is not None:
            self._child.interrupt()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child, self._worked = None, False
