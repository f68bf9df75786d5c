"""Open benchmarks by name, and the contract of what is opened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol as Contract

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group, Split
from basereward.errors import DataError, RecipeError
from basereward.evaluation.items import Item
from basereward.evaluation.statistics.measures import Variant
from basereward.io.limits import pipe_fault
from basereward.recipe import make, names
from basereward.recipe.fragment import load_fragment, load_pairs
from basereward.recipe.schema import Node

DATA = "data="


class Benchmark(Contract):
    """Items to score, and ways of counting the outcomes.

    It is made as `Class(name, **arguments of the YAML file)`. Making it reads no row.
    """

    name: str
    version: str
    """of this reading of the benchmark; a change that moves a number raises it"""
    store: ImageStore
    """where the images are"""
    expected_items: int | None
    """the number of items of the whole benchmark; None: unknown"""
    unscored: str | None
    """what the rows hold that models and judges cannot read here, such as videos as answers; None: nothing

    Outcomes of other programs are counted all the same."""

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Ways of counting by name, the published one first."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """All items, in the order of the rows. The first access reads them.

        Raises:
            DataError: the rows cannot be read.
        """
        ...

    def groups(self, split: Split) -> Sequence[Group]:
        """As a source whose test split is the whole benchmark: its prompts, without preferences. Curation compares
        training rows with them.

        Raises:
            DataError: the rows cannot be read.
        """
        ...

    @property
    def partial(self) -> str | None:
        """How the items differ from those of the whole benchmark; None if they do not."""
        ...

    @property
    def inputs(self) -> Sequence[Path]:
        """The local files and folders that are read."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, str | None]:
        """Hashes of the `items` and of the content of the `pictures`; None for what is not available."""
        ...

    @property
    def digest(self) -> str:
        """A hash of everything that decides on a score or a number."""
        ...


def load_benchmark(name: str, *, overrides: Iterable[str] = ()) -> Benchmark:
    """Open a benchmark. No row is read yet.

    Args:
        name: of a file in `experiments/benchmarks`, or the path of such a file.
        overrides: `key=value` for arguments of the benchmark. `data=PATH` reads a local file or folder in place of the
            published data set.

    A relative `path` in a YAML file that is given by its path may also start from the folder of that file.

    Raises:
        RecipeError: there is no such benchmark, or its arguments are wrong.
        DataError: there is nothing at PATH.

    >>> load_benchmark("vl_rewardbench").expected_items
    1250
    """
    changes: list[str] = []
    for override in overrides:
        changes += _local_data(override.removeprefix(DATA)) if override.startswith(DATA) else [override]
    stem, node = load_fragment(name, "benchmarks", overrides=changes)
    benchmark: Benchmark = make(_beside(name, node), "benchmarks", stem)
    return benchmark


def _beside(name: str, node: Node) -> Node:
    """The node with the rows that lie beside its YAML file, where the working folder has none of that name."""
    path = node.get("path")
    if not name.endswith((".yaml", ".yml")) or not isinstance(path, str) or Path(path).exists():
        return node
    beside = Path(name).parent / path
    return {**node, "path": str(beside)} if beside.exists() else node


def open_pairs(path: str, *, overrides: Iterable[str] = ()) -> Benchmark:
    """Open a user's own file or folder of pairs as a benchmark. No row is read yet.

    Raises:
        RecipeError: as `load_pairs`.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> _ = file.write_text('{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}')
    >>> len(open_pairs(str(file)).items)
    1
    """
    name, node = load_pairs(path, overrides=overrides)
    benchmark: Benchmark = make(node, "benchmarks", name)
    return benchmark


def expected_items(name: str) -> int | None:
    """The number of items of a published benchmark; None if there is none of that name, or its number is unknown.

    >>> expected_items("vl_rewardbench"), expected_items("no_such_benchmark")
    (1250, None)
    """
    try:
        if name not in [entry.name for entry in names("benchmarks")]:
            return None
        _, node = load_fragment(name, "benchmarks")
    except RecipeError:
        # An old evaluation can be read where the folder of experiments is missing or wrong.
        return None
    number = node.get("expected_items")
    return number if isinstance(number, int) else None


def _local_data(path: str) -> list[str]:
    """The overrides that `data=PATH` stands for."""
    if fault := pipe_fault(path):
        raise DataError(f"data={path}: {fault}")
    if not Path(path).exists():
        raise DataError(f"data={path}: there is no such file or folder")
    overrides = [f"path={json.dumps(path)}", "revision=null"]
    if Path(path).is_file():
        # These choose among the files of a repository. A single file is all rows, and `datasets` calls it "train".
        overrides += ["files=null", "subset=null", "split=train"]
    return overrides
