"""Curation of training data: removes duplicates and contaminated groups, and applies a judge."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, tee
from typing import Protocol

from basereward.data.curation.contamination import OverlapReport, References, contaminated, find_contaminated
from basereward.data.curation.duplicates import PlacedGroup, find_duplicates
from basereward.data.curation.image_hashes import ImageHashes
from basereward.data.curation.relabel import RelabelSummary, relabel
from basereward.data.curation.sharded import ShardedCuration
from basereward.data.schema.group import SPLITS, Group, Preference, RejectedRow, Split

logger = logging.getLogger(__name__)

ScoreGroups = Callable[[Iterable[Group]], Iterator[list[float]]]
"""Scores the responses of groups with a trained model."""
RowPlace = tuple[str, int]
"""The name of a source, and the index of a group among its training groups."""


class Reference(Protocol):
    """Rows that are not trained on: a benchmark, or any source."""

    def groups(self, split: Split) -> Sequence[Group]:
        """The groups of a split, as of a `Source`."""
        ...


@dataclass
class Curated:
    """The result of a curation.

    Attributes:
        rejected: the removed groups.
        preferences: the new preferences of groups that the judge changed.
        overlaps: counts of the overlaps with benchmarks; None if there are no benchmarks.
        relabelled: counts of the changes by the judge; None without a judge.

    >>> Curated().rejected
    {}
    """

    rejected: dict[RowPlace, RejectedRow] = field(default_factory=dict)
    preferences: dict[RowPlace, tuple[Preference, ...]] = field(default_factory=dict)
    overlaps: OverlapReport | None = None
    relabelled: RelabelSummary | None = None


@dataclass(frozen=True)
class Curation:
    """Removes duplicates, groups that are in a benchmark, and groups that a trained model contradicts, in this order.

    Args:
        duplicates: whether to remove duplicates.
        near: the similarity from which groups count as duplicates; None: only equal groups.
        against: benchmarks, or sources of their rows, by name.
        judge: scores groups with a trained model; None: no model is used.
        drop: the margin against a preference from which it is removed; see `relabel`.

    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("6 x 7?"),)),), ("42", "41"), (Preference(0, 1),))
    >>> curated = Curation(duplicates=True)(lambda: iter([("s", 0, group), ("s", 1, group)]))
    >>> [(place, row.reason) for place, row in curated.rejected.items()]
    [(('s', 1), 'duplicate')]
    """

    duplicates: bool = False
    near: float | None = None
    against: Mapping[str, Reference] = field(default_factory=dict)
    judge: ScoreGroups | None = None
    drop: float = 2.0

    def __call__(
        self, groups: Callable[[], Iterator[PlacedGroup]], *, sharded: ShardedCuration | None = None
    ) -> Curated:
        """Curate the training groups, in one pass over them per criterion.

        Args:
            groups: returns a new iterator over all groups at every call.
            sharded: the same groups, to find duplicates and overlaps on a cluster; None: in this process.

        Raises:
            DataError: an argument is out of range, or a benchmark is malformed.
        """
        curated = Curated()
        # Shared by both searches, so that every image file is read once.
        image_hashes = ImageHashes()

        def remaining() -> Iterator[PlacedGroup]:
            for source, index, group in groups():
                if (source, index) not in curated.rejected:
                    yield source, index, group

        if self.duplicates or self.near is not None:
            if sharded is None:
                copies = find_duplicates(remaining(), threshold=self.near, image_hashes=image_hashes)
            else:
                copies = sharded.find_duplicates(threshold=self.near)
            for copy in copies:
                curated.rejected[copy.source, copy.index] = _left_out(copy.source, copy.id, copy.reason, copy.detail)
        if self.against:
            benchmarks = {name: _all(reference) for name, reference in self.against.items()}
            _leave_out_contaminated(curated, References(benchmarks, image_hashes=image_hashes), remaining(), sharded)
        if self.judge is not None:
            self._relabel(curated, self.judge, remaining())
        return curated

    def _relabel(self, curated: Curated, judge: ScoreGroups, placed: Iterator[PlacedGroup]) -> None:
        """Apply the judge; at most the groups that it scores together are in memory."""
        # The judge reads the groups ahead, by batches; `tee` keeps those that it has read and not scored yet.
        placed, again = tee(placed)
        curated.relabelled = RelabelSummary(self.drop)
        for (source, index, group), scores in zip(placed, judge(group for _, _, group in again), strict=True):
            result = relabel(group, scores, drop=self.drop)
            curated.relabelled.add(group, result)
            if isinstance(result, RejectedRow):
                # The recipe asks for the removal, so it does not count towards `max_lost`.
                curated.rejected[source, index] = dataclasses.replace(result, fault=False)
            elif result.preferences != group.preferences:
                curated.preferences[source, index] = result.preferences
        logger.info("relabelled with a threshold of %g: %s", self.drop, curated.relabelled)


def _leave_out_contaminated(
    curated: Curated, references: References, remaining: Iterator[PlacedGroup], sharded: ShardedCuration | None
) -> None:
    """Remove the groups that are in a benchmark, and count the overlaps."""
    curated.overlaps = OverlapReport()
    if sharded is None:
        found = find_contaminated(remaining, references, report=curated.overlaps)
    else:
        found = contaminated(sharded.ask(references, dropped=curated.rejected), report=curated.overlaps)
    # The list ends the iteration before `rejected` is changed, which `remaining` reads.
    for hit in list(found):
        curated.rejected[hit.source, hit.index] = _left_out(hit.source, hit.id, "contaminated", hit.detail)
    logger.info("overlap with benchmarks:\n%s", curated.overlaps.table(references))


def _left_out(source: str, row: str, reason: str, detail: str) -> RejectedRow:
    """Return a row that is removed on purpose, which does not count towards `max_lost`."""
    return RejectedRow(source, "train", row, reason, detail, fault=False)


def _all(reference: Reference) -> Iterator[Group]:
    """Iterate over the groups of all splits of a benchmark."""
    return chain.from_iterable(reference.groups(split) for split in SPLITS)
