"""Another source with wrong labels and copies, which are known: to measure what cleaning finds."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from annotated_types import Interval

from basereward.data.curation.label_errors import turned_round, without_annotations
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.sources import LazyGroups, Source
from basereward.recipe import make

COPY = "~copy"


class Noisy:
    """The groups of a source. Some have all their preferences flipped, and some are there twice.

    Which labels are wrong is a function of the seed and of the id of a group alone. The val split has wrong labels too,
    as held-out rows of a noisy data set have; the test split is unchanged.

    Args:
        name: the name of the source.
        source: the source with right labels, with its arguments.
        flipped: the share of the groups of train and val whose labels are wrong.
        copied: the number of copies that are added to train, as a share of its groups: of the first ones. A copy has
            the labels of its group, right or wrong, and its id with `~copy`.
        seed: determines which labels are wrong.

    >>> source = Noisy("noisy", source={"_target_": "digits", "answers": 2, "true_answers": 1}, flipped=0.2, copied=0.3)
    >>> groups = source.groups("train")
    >>> len(groups), round(sum(source.is_wrong(group.id) for group in groups) / len(groups), 2)
    (1686, 0.21)
    """

    def __init__(
        self,
        name: str,
        *,
        source: dict[str, Any],
        flipped: Annotated[float, Interval(ge=0, le=1)] = 0.2,
        copied: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.source: Source = make(source, "sources", name)
        self.flipped = flipped
        self.copied = copied
        self.seed = seed

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the groups of a split; the copies follow the others."""
        groups = self.source.groups(split)
        if split == "test":
            return groups
        copies = round(self.copied * len(groups)) if split == "train" else 0
        return LazyGroups(partial(self._group, split), count=len(groups) + copies)

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return the rejected rows of the source."""
        return self.source.rejected(split)

    def is_wrong(self, group_id: str) -> bool:
        """Whether the labels of a group of train or val are wrong; of a copy, those of its group.

        Args:
            group_id: its id.
        """
        digest = hashlib.sha256(f"{self.seed}/{group_id.removesuffix(COPY)}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.flipped

    def _group(self, split: Split, index: int) -> Group:
        groups = self.source.groups(split)
        group = groups[index % len(groups)]
        if self.is_wrong(group.id):
            preferences = tuple(turned_round(preference) for preference in group.preferences)
            group = dataclasses.replace(without_annotations(group), preferences=preferences)
        return dataclasses.replace(group, id=group.id + COPY) if index >= len(groups) else group
