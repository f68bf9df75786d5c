"""Benchmarks by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol as Contract

from basereward.data.images.image_store import ImageStore
from basereward.errors import DataError, RecipeError
from basereward.evaluation.items import Item
from basereward.evaluation.statistics.measures import Variant
from basereward.recipe import make, names
from basereward.recipe.fragment import load_fragment, load_pairs

DATA = "data="


class Benchmark(Contract):
    """Made as `Class(name, **arguments of the YAML file)`."""

    name: str
    version: str
    store: ImageStore
    expected_items: int | None
    """How many items the whole benchmark has; None where that is not known."""

    @property
    def judges_only(self) -> bool: ...
    @property
    def variants(self) -> Mapping[str, Variant]: ...
    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def partial(self) -> str | None: ...
    @property
    def inputs(self) -> Sequence[Path]: ...
    @property
    def fingerprint(self) -> Mapping[str, str | None]: ...
    @property
    def digest(self) -> str: ...


def load_benchmark(given: str, *, overrides: Iterable[str] = ()) -> Benchmark:
    """A benchmark by its name in `experiments/benchmarks`, or by a path to such a file. No row is read yet.

    Args:
        overrides: `key=value`, the keys being arguments of the benchmark; `data=PATH` reads that file or folder in
            place of the published one.

    Raises:
        RecipeError: there is no such benchmark, or its arguments are wrong.
        DataError: nothing lies where `data` says.
    """
    told: list[str] = []
    for override in overrides:
        if override.startswith(DATA):
            path = override.removeprefix(DATA)
            if not Path(path).exists():
                raise DataError(f"data={path}: there is no such file or folder")
            told += [f"path={json.dumps(path)}", "revision=null"] + (
                ["files=null", "subset=null", "split=train"] if Path(path).is_file() else []
            )
        else:
            told.append(override)
    name, node = load_fragment(given, "benchmarks", overrides=told)
    made: Benchmark = make(node, "benchmarks", name)
    return made


def open_pairs(path: str, *, overrides: Iterable[str] = ()) -> Benchmark:
    """A person's own file or folder of pairs. No row is read yet. Raises: RecipeError, as `load_pairs`."""
    name, node = load_pairs(path, overrides=overrides)
    made: Benchmark = make(node, "benchmarks", name)
    return made


def expected_items(name: str) -> int | None:
    """How many items the published benchmark of a name has; None where there is none of that name, or it does not say.

    >>> expected_items("vl_rewardbench"), expected_items("no_such_benchmark")
    (1250, None)
    """
    try:
        if name not in [entry.name for entry in names("benchmarks")]:
            return None
        _, node = load_fragment(name, "benchmarks")
    except RecipeError:
        return None
    found = node.get("expected_items")
    return found if isinstance(found, int) else None
