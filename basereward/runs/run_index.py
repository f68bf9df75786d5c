"""Finds the runs of a recipe without reading every folder again: a sweep of a thousand cells asks for each of them."""

from __future__ import annotations

import os
from pathlib import Path

from basereward.errors import RunError
from basereward.runs.run_folder import RunFolder, runs_root


class RunIndex:
    """The recipe of each run in the folder of runs, read once: it never changes. States are not kept.

    Args:
        root: folder of all runs.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> index = RunIndex(root)
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=root)
    >>> index.runs_of("0") == [run], index.runs_of("1")
    (True, [])
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = (root or runs_root()).absolute()
        # Time of creation of each run, sweep and ensemble by its id.
        self._known: dict[str, float] = {}
        self._by_recipe: dict[str, list[str]] = {}

    def runs_of(self, recipe_sha256: str) -> list[RunFolder]:
        """The runs of a recipe, the newest first.

        Args:
            recipe_sha256: hash of the recipe.
        """
        present = self._update()
        names = [name for name in self._by_recipe.get(recipe_sha256, []) if name in present]
        names.sort(key=lambda name: self._known[name], reverse=True)
        return [RunFolder(self._root / name) for name in names]

    def _update(self) -> set[str]:
        """Read the runs that are new, and return the names of all folders."""
        try:
            present = set(os.listdir(self._root))
        except FileNotFoundError:
            return set()
        for name in sorted(present - self._known.keys()):
            if name.startswith("."):
                continue
            try:
                status = RunFolder(self._root / name).status
            except RunError:
                # It is no run, or broken; what is repaired later is found later.
                continue
            self._known[name] = float(status["created"])
            if status["kind"] == "run":
                self._by_recipe.setdefault(status["recipe_sha256"], []).append(name)
        return present
