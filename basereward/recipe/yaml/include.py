"""Reads YAML files with the files that they include: `include: NAME` or `include: [NAMES]` in any mapping."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError
from basereward.recipe.fault import EVERY_CELL, Fault
from basereward.recipe.yaml.files import find_file, read_yaml, shortened
from basereward.recipe.yaml.merge import KeyPath, Layer, merge

COMMAND_LINE = "the command line"
FILES_LIMIT = 1_000
"""Most files that one recipe may include. In a chain of files that include the next one twice, the number of reads
doubles with each file."""


class Reader:
    """Reads YAML files with their includes, and collects the faults, so that all can be reported at once.

    Args:
        folders: where the names of included files are looked up, as of `experiments_folders`.

    Attributes:
        faults: the faults until now.
        complete: False once an included file could not be read.

    >>> from basereward.recipe.yaml.files import experiments_folders
    >>> reader = Reader(experiments_folders())
    >>> reader.expand({"digits": {"include": "sources/digits"}}, origin="here").values["digits"]["_target_"]
    'digits'
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.faults: list[Fault] = []
        self.complete = True
        self._files_read = 0

    def subfolders(self, name: str) -> list[Path]:
        """A subfolder of every folder, such as `profiles`."""
        return [folder / name for folder in self.folders]

    def read(self, file: Path) -> Layer:
        """A file with all of its includes."""
        return self._read(file, chain=(), path=())

    def expand(self, values: dict[str, Any], *, origin: str) -> Layer:
        """Values that do not come from a file, such as an override, with all of their includes."""
        return self._expand(values, origin=origin, chain=(), path=())

    def add_fault(self, key: str, message: str) -> None:
        """Records one more fault, which all cells have."""
        self.faults.append(Fault(EVERY_CELL, key, message))

    def _read(self, file: Path, *, chain: tuple[Path, ...], path: KeyPath) -> Layer:
        # Resolved, because a circle may lead through links to the same file.
        if file.resolve() in chain:
            names = " -> ".join(step.stem for step in (*chain[chain.index(file.resolve()) :], file))
            raise RecipeError(f"the includes go in a circle: {names}")
        self._files_read += 1
        if self._files_read > FILES_LIMIT:
            raise RecipeError(f"more than {FILES_LIMIT:,} files are included")
        return self._expand(read_yaml(file), origin=str(file), chain=(*chain, file.resolve()), path=path)

    def _expand(self, values: dict[str, Any], *, origin: str, chain: tuple[Path, ...], path: KeyPath) -> Layer:
        """The included files in their order, and over them the keys beside `include`."""
        included = Layer(origins={(): origin})
        for name in self._names(values.get("include", []), path=path, origin=origin):
            try:
                file = find_file(name, kind="include", folders=self.folders)
                included = merge(included, self._read(file, chain=chain, path=path))
            except RecipeError as error:
                self.complete = False
                self.add_fault(".".join((*path, "include")), f"{error} ({origin})")
        # The keys beside `include` override those of the included files, wherever `include` stands in the mapping.
        own = Layer(origins={(): origin})
        for key, value in values.items():
            if key == "include":
                continue
            own.values[key] = self._inner(value, own, origin=origin, chain=chain, path=(*path, key), depth=len(path))
        return merge(included, own)

    def _inner(self, value: Any, own: Layer, *, origin: str, chain: tuple[Path, ...], path: KeyPath, depth: int) -> Any:
        if isinstance(value, list):
            # Origins have no path into a list, so those of its items are dropped.
            return [self._inner(item, Layer(), origin=origin, chain=chain, path=path, depth=depth) for item in value]
        if not isinstance(value, dict):
            return value
        layer = self._expand(value, origin=origin, chain=chain, path=path)
        own.origins.update({(*path[depth:], *below): where for below, where in layer.origins.items()})
        return layer.values

    def _names(self, include: Any, *, path: KeyPath, origin: str) -> list[str]:
        names = include if isinstance(include, list) else [include]
        if all(isinstance(name, str) for name in names):
            return names
        self.add_fault(
            ".".join((*path, "include")), f"expected a name or a list of names, {shortened(include)} given ({origin})"
        )
        return []
