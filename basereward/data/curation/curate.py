"""What a recipe asks to leave out of its training data, as one pass."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import tee

from basereward.data.curation.contamination import OverlapReport, References, find_contaminated
from basereward.data.curation.duplicates import PlacedGroup, find_duplicates
from basereward.data.curation.pictures import PictureHashes
from basereward.data.curation.relabel import RelabelSummary, relabel
from basereward.data.schema.group import SPLITS, Group, Preference, RejectedRow
from basereward.data.sources import Source

logger = logging.getLogger(__name__)

ScoreGroups = Callable[[Iterable[Group]], Iterator[list[float]]]
"""The scores of every group's responses, by a trained model."""
RowPlace = tuple[str, int]
"""Name of a source and index among its training groups."""


@dataclass
class Curated:
    """What was left out of the training groups, and what was changed in those that stay."""

    lost: dict[RowPlace, RejectedRow] = field(default_factory=dict)
    preferences: dict[RowPlace, tuple[Preference, ...]] = field(default_factory=dict)  # of groups that were re-weighted
    overlaps: OverlapReport | None = None
    relabelled: RelabelSummary | None = None


@dataclass(frozen=True)
class Curation:
    """Leaves out groups that come again, that are in a benchmark, or that a trained model disagrees with, in this
    order.

    Args:
        duplicates: whether to keep one of equal groups.
        near: similarity from which groups count as equal; None: only equal ones do.
        against: benchmarks by name, as sources.
        judge: scores of a trained model; None asks none.
        drop: margin against a preference from which the judge drops it; see `relabel`.
    """

    duplicates: bool = False
    near: float | None = None
    against: Mapping[str, Source] = field(default_factory=dict)
    judge: ScoreGroups | None = None
    drop: float = 2.0

    def __call__(self, groups: Callable[[], Iterator[PlacedGroup]]) -> Curated:
        """Goes through the training groups, as often as there are things to look for.

        Args:
            groups: begins anew with the first at every call.

        Raises:
            DataError: an argument is out of range, or a benchmark is malformed.
        """
        curated = Curated()
        pictures = PictureHashes()

        def left() -> Iterator[PlacedGroup]:
            return (
                (source, index, group) for source, index, group in groups() if (source, index) not in curated.rejected
            )

        if self.duplicates or self.near is not None:
            for each in find_duplicates(left(), threshold=self.near, pictures=pictures):
                curated.rejected[each.source, each.index] = _left_out(each.source, each.id, each.reason, each.detail)
        if self.against:
            references = References({name: _all(source) for name, source in self.against.items()}, pictures=pictures)
            curated.overlaps = OverlapReport()
            found = list(find_contaminated(left(), references, report=curated.overlaps))
            for hit in found:
                curated.rejected[hit.source, hit.index] = _left_out(hit.source, hit.id, "contaminated", hit.detail)
            logger.info("overlap with benchmarks:\n%s", curated.overlaps.table(references))
        if self.judge is not None:
            self._relabel(curated, self.judge, left())
        return curated

    def _relabel(self, curated: Curated, judge: ScoreGroups, placed: Iterator[PlacedGroup]) -> None:
        """Holds no more groups at a time than the judge scores together."""
        placed, again = tee(placed)
        curated.relabelled = RelabelSummary(self.drop)
        for (source, index, group), scores in zip(placed, judge(group for _, _, group in again), strict=True):
            result = relabel(group, scores, drop=self.drop)
            curated.relabelled.add(group, result)
            if isinstance(result, RejectedRow):
                curated.rejected[source, index] = dataclasses.replace(result, fault=False)
            elif result.preferences != group.preferences:
                curated.preferences[source, index] = result.preferences
        logger.info("relabelled with a threshold of %g: %s", self.drop, curated.relabelled)


def _left_out(source: str, row: str, reason: str, detail: str) -> RejectedRow:
    return RejectedRow(source, "train", row, reason, detail, fault=False)


def _all(source: Source) -> Iterator[Group]:
    """Every group of a benchmark, whatever part it would be in."""
    return (group for split in SPLITS for group in source.groups(split))
