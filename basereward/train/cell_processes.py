"""Which process trains which cell of a sweep."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from basereward.errors import RunError
from basereward.recipe import Recipe, recipe_yaml
from basereward.train.child import Child


class CellProcesses:
    """Trains cells, one after another, each in a process of its own. Probes that follow each other share one, and in it
    what they read, until one fails."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def train(self, recipe: Recipe, *, resume: str | None, parent: str) -> dict[str, Any]:
        """Trains a cell and returns its result.

        Args:
            resume: id of a stopped run that goes on.
            parent: id of the sweep.

        Raises:
            RunError: it failed, or its process has died; the message is its own.
        """
        if not recipe.probe:
            self._close()
        self._child = self._child or Child("basereward.train.cell")
        try:
            result = self._child.ask(recipe_yaml(recipe), parent=parent, resume=resume)
        except RunError:
            self._close()
            raise
        if not recipe.probe:
            self._close()
        return result

    def _close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
