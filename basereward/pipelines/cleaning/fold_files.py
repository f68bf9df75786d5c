"""The rows of sources in folds: a model is trained on all folds but one, and scores the rows of that one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from basereward.data.conversion import RowWriter
from basereward.data.schema.group import Group, Split
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.data.sources._row_index import prompt_key
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from basereward.io.files import atomic_file, json_text, write_atomic
from basereward.io.limits import read_json_object
from basereward.io.progress import track
from basereward.recipe import make
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node

ROWS, HELD_OUT, WORK = "rows", "held_out", "work"
"""Folders of the stage: its outputs, and the files that only its own models read."""
COUNTS = "counts.json"


@dataclass(frozen=True)
class FoldFiles:
    """Files of rows in the folder of a stage.

    Attributes:
        folder: of the stage.
        sources: the sources that are cleaned, by name.
        folds: the number of parts of the training rows; 1: models score the rows that they were trained on.
        seed: of the assignment of prompts to folds.

    >>> files = FoldFiles(Path("out"), {"digits": {"_target_": "digits"}}, folds=2, seed=0)
    >>> files.original("digits", 1).as_posix(), files.trained("digits", cleaned=0, without=1).as_posix()
    ('out/work/digits.fold1.jsonl', 'out/work/digits.round0.without1.jsonl')
    """

    folder: Path
    sources: Mapping[str, Node]
    folds: int
    seed: int

    @property
    def work(self) -> Path:
        """The folder of the files between."""
        return self.folder / WORK

    def original(self, name: str, fold: int) -> Path:
        """The rows of a fold of a source, with their labels as given."""
        return self.work / f"{name}.fold{fold}.jsonl"

    def held_out(self, name: str) -> Path:
        """The val rows of a source, which are never changed."""
        return self.folder / HELD_OUT / f"{name}.jsonl"

    def trained(self, name: str, *, cleaned: int, without: int) -> Path:
        """The rows of a source that a model is trained on.

        Args:
            name: of the source.
            cleaned: how often the rows were cleaned.
            without: the fold that is left out.
        """
        return self.work / f"{name}.round{cleaned}.without{without}.jsonl"

    def scores(self, rows: Path, *, cleaned: int, fold: int, model: int) -> Path:
        """The scores of rows by a model of a round that was trained without a fold."""
        return self.work / f"{rows.parent.name}.{rows.stem}.round{cleaned}.without{fold}.model{model}.scores.jsonl"

    def result(self, name: str) -> Path:
        """The cleaned rows of a source."""
        return self.folder / ROWS / f"{name}.jsonl"

    def write(self) -> dict[str, Any]:
        """Write the rows of all folds, and the held-out rows; once, however often it is called.

        Returns:
            `rows`, `held_out` and `unreadable` of each source: numbers of groups.

        Raises:
            DataError: a source has no training or no held-out rows, or cannot be read.
        """
        done = self.work / COUNTS
        if done.is_file():
            return read_json_object(done, error=DataError)
        for folder in (ROWS, HELD_OUT, WORK):
            (self.folder / folder).mkdir(exist_ok=True)
        counts: dict[str, Any] = {}
        for name, node in self.sources.items():
            source: Source = make(node, "sources", name)
            folds = [self.original(name, fold) for fold in range(self.folds)]
            held_out, lost_val = self._write(source, "val", [self.held_out(name)])
            rows, lost = self._write(source, "train", folds)
            counts[name] = {"rows": rows, "held_out": held_out, "unreadable": lost + lost_val}
        write_atomic(done, json.dumps(counts) + "\n")
        return counts

    def _write(self, source: Source, split: Split, files: Sequence[Path]) -> tuple[int, int]:
        """Write the groups of a split into files by the hash of their prompts; give how many were, and were not."""
        writer = RowWriter(files[0].parent, self.folder / ROWS / "images")
        groups = source.groups(split)
        used: dict[str, int] = {}
        lost = 0
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(atomic_file(file)) for file in files]
            for group in track(groups, f"writing {split} rows of {source.name}", total=len(groups)):
                try:
                    row = writer.row(group)
                except RowRejected:
                    lost += 1
                    continue
                used[group.id] = used.get(group.id, 0) + 1
                if used[group.id] > 1:  # decisions name a row by its id
                    row["id"] = f"{group.id}~{used[group.id]}"
                write_line(targets[prompt_key(group, seed=self.seed, root="") % len(files)], row)
        if not used:
            raise DataError(
                f"source '{source.name}' has no usable rows in its {split} split; cleaning needs training rows, and "
                "held-out rows to decide when it stops. Set its `val`, or leave it out of `sources`"
            )
        return sum(used.values()), lost

    def write_trained(self, name: str, corrected: Sequence[Path], *, cleaned: int) -> None:
        """Join the folds of a source but one, for each of them.

        Args:
            name: of the source.
            corrected: the file of each fold.
            cleaned: how often the rows were cleaned.
        """
        for without in range(self.folds):
            # With one fold there is no other one to train on.
            kept = [file for fold, file in enumerate(corrected) if fold != without or self.folds == 1]
            with atomic_file(self.trained(name, cleaned=cleaned, without=without)) as target:
                for file in kept:
                    target.write(file.read_bytes())

    def write_groups(self, target: Path, groups: Iterable[Group]) -> int:
        """Write groups as rows; give their number.

        Args:
            target: in a folder of the stage.
            groups: read from other files of the stage.
        """
        writer = RowWriter(target.parent, self.folder / ROWS / "images")
        number = 0
        with atomic_file(target) as file:
            for group in groups:
                write_line(file, writer.row(group))
                number += 1
        return number


def write_line(file: BinaryIO, row: Mapping[str, Any]) -> None:
    """Write a row as a line of JSON.

    >>> import io
    >>> buffer = io.BytesIO()
    >>> write_line(buffer, {"id": "a"})
    >>> buffer.getvalue()
    b'{"id": "a"}\\n'
    """
    # Half of a surrogate pair becomes its escape, which is valid JSON.
    file.write((json_text(row) + "\n").encode("utf-8", "backslashreplace"))


def read_groups(file: Path) -> Iterator[Group]:
    """The groups of a file of rows, in order; none if all rows of it were dropped."""
    if file.stat().st_size:
        yield from read_rows(str(file))


def file_source(rows: Path | str, *, held_out: Path | str | None = None) -> Node:
    """The source of a file whose rows are all trained on.

    Args:
        rows: the file.
        held_out: the file of the val split; None: there are no val rows.

    >>> file_source("a.jsonl")["val"]
    0.0
    """
    val = 0.0 if held_out is None else str(held_out)
    node, faults = check_node({"_target_": "jsonl", "path": str(rows), "val": val, "test": 0.0}, "sources")
    assert not faults, faults
    return node
