"""Duplicates and overlaps with benchmarks on a cluster, with the result of one process.

Workers make the signatures of duplicates and compare rows with benchmarks, which is nearly all of the work; both need
one row at a time. This process compares the signatures, as `duplicates` does without a cluster: a group is dropped when
it is similar to an earlier one that is *kept*, so each decision depends on those before it.

Two other ways were looked at. Ray Data's group-by would send 17 keys of every row through the object store to form the
buckets that `numpy.unique` finds from 8 bytes a row, and the decisions would remain to be made in order. The MinHash of
datatrove shares a band's sorted files among workers, which is what this would need beyond some 100 million rows; but it
keeps one text of every chain of similar texts, so its result is another one than that of a run on one machine.
"""

from __future__ import annotations

import json
import shutil
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from basereward.cluster.shards import FEW_ROWS, ShardedRows
from basereward.data.curation.contamination import Answered, BenchmarkAnswer, References
from basereward.data.curation.duplicates import Duplicate, check_options, describe_duplicates
from basereward.data.curation.overlap import Overlap
from basereward.data.curation.signatures import Signer, signature_type
from basereward.data.encoding.content_hash import rows_hash
from basereward.data.schema.group import Group

if TYPE_CHECKING:
    from numpy.typing import NDArray

PlacedPart: TypeAlias = "tuple[str, Sequence[Group], NDArray[np.int64]]"
"""The name of a source, its groups, and the indices of those that are used."""


class PlacedGroups(Sequence[Group]):
    """The used groups of several sources as one sequence, read on access; with the place of each.

    >>> groups = [Group("a", "s", (), ("yes",)), Group("b", "s", (), ("no",))]
    >>> placed = PlacedGroups([("s", groups, np.array([0, 1]))])
    >>> placed[1].id, placed.place(1), len(placed.without({("s", 0)}))
    ('b', ('s', 1), 1)
    """

    def __init__(self, parts: Sequence[PlacedPart]) -> None:
        self.parts = list(parts)
        self._stops = list(accumulate(len(indices) for _, _, indices in self.parts))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(len(self))[number]]
        part, index = self._find(number)
        return part[1][index]

    def place(self, number: int) -> tuple[str, int]:
        """The name of the source, and the index among its groups."""
        part, index = self._find(number)
        return part[0], index

    def _find(self, number: int) -> tuple[PlacedPart, int]:
        # A range checks the number.
        number = range(len(self))[number]
        place = bisect_right(self._stops, number)
        part = self.parts[place]
        return part, int(part[2][number - (self._stops[place] - len(part[2]))])

    def without(self, dropped: Container[tuple[str, int]]) -> PlacedGroups:
        """The same groups without those at some places."""
        kept: list[PlacedPart] = []
        for name, groups, indices in self.parts:
            mask = np.array([(name, index) not in dropped for index in indices.tolist()], bool)
            kept.append((name, groups, indices[mask]))
        return PlacedGroups(kept)


@dataclass(frozen=True)
class ShardedCuration:
    """Groups, and the cluster that works on them.

    Attributes:
        groups: all groups before curation.
        rows: the cluster.
    """

    groups: PlacedGroups
    rows: ShardedRows

    def find_duplicates(self, *, threshold: float | None, shingle: int = 3) -> list[Duplicate]:
        """As `duplicates.find_duplicates`."""
        check_options(threshold, shingle=shingle)
        work = _SigningWork(self.groups, near=threshold is not None, shingle=shingle)
        shards = self.rows.run(work, num_rows=len(self.groups), what="hashing rows", few=FEW_ROWS)
        # One file, so that the system can keep in memory what is used and let go of the rest.
        merged = self.rows.folder / "signatures"
        with merged.open("wb") as output:
            for shard in shards:
                with shard.file.open("rb") as records:
                    shutil.copyfileobj(records, output)
        if not len(self.groups):
            return []
        signatures = np.memmap(merged, signature_type(near=threshold is not None), mode="r")

        def place_of(number: int) -> tuple[str, int, str]:
            return (*self.groups.place(number), self.groups[number].id)

        return describe_duplicates(signatures, place_of, threshold=threshold)

    def ask(self, references: References, *, dropped: Container[tuple[str, int]]) -> Iterator[Answered]:
        """The overlaps of the groups that are not dropped with benchmarks, in order."""
        groups = self.groups.without(dropped)
        shards = self.rows.run(
            _ComparingWork(groups, references), num_rows=len(groups), what="comparing with benchmarks", few=FEW_ROWS
        )
        for shard in shards:
            answers = dict(_read_answers(shard.file))
            for number in shard.rows:
                source, index = groups.place(number)
                answer = answers.get(number, BenchmarkAnswer((), 0))
                # The id is needed for a group with an overlap only, and takes reading its row.
                yield source, index, groups[number].id if answer.overlaps else "", answer


@dataclass(frozen=True)
class _SigningWork:
    """Makes signatures; itself the worker, since there is nothing to load."""

    groups: PlacedGroups
    near: bool
    shingle: int

    def __call__(self) -> _SigningWork:
        return self

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        return rows_hash(self.groups, rows, [("signatures", f"1 {self.near} {self.shingle}")])

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`."""
        signer = Signer(near=self.near, shingle=self.shingle)
        with target.open("wb") as output:
            for signatures in signer.sign(self.groups[number] for number in rows):
                output.write(signatures.tobytes())
        return {}


@dataclass(frozen=True)
class _ComparingWork:
    """Compares groups with benchmarks; itself the worker."""

    groups: PlacedGroups
    references: References

    def __call__(self) -> _ComparingWork:
        return self

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        return rows_hash(self.groups, rows, [("overlaps", f"1 {self.references.fingerprint}")])

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`; a line for each row with an overlap or an image that cannot be read."""
        with target.open("w", encoding="utf-8") as output:
            for number in rows:
                answer = self.references.ask(self.groups[number])
                if answer.overlaps or answer.num_unread:
                    output.write(json.dumps({"row": number, **asdict(answer)}) + "\n")
        return {}


def _read_answers(file: Path) -> Iterator[tuple[int, BenchmarkAnswer]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            values = json.loads(line)
            overlaps = tuple(Overlap(**overlap) for overlap in values["overlaps"])
            yield values["row"], BenchmarkAnswer(overlaps, values["num_unread"])
