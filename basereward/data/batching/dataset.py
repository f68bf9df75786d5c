"""The data set of one split, from which a data loader reads encoded groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from basereward.data.batching.plan import Place
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group, Preference, Split
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GroupDataset(Dataset[EncodedGroup]):
    """The usable groups of a split, encoded on access.

    Args:
        sources: the sources by name.
        split: the split.
        kept: for each source, the indices of its usable groups.
        encoder: encodes groups; target texts are included in the train split.
        changed: by source and index, preferences that replace those of the source.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        split: Split,
        *,
        kept: Mapping[str, NDArray[np.int64]],
        encoder: Encoder,
        changed: Mapping[tuple[str, int], tuple[Preference, ...]] | None = None,
    ) -> None:
        self.with_targets = split == "train"
        self.names = list(sources)
        self.groups = {name: source.groups(split) for name, source in sources.items()}
        self.kept = dict(kept)
        self.encoder = encoder
        self.changed = dict(changed or {})

    def with_encoder(self, encoder: Encoder) -> GroupDataset:
        """Return the same groups, encoded by another encoder."""
        dataset = copy.copy(self)
        dataset.encoder = encoder
        return dataset

    @property
    def places(self) -> list[Place]:
        """The places of all groups, source after source."""
        places: list[Place] = []
        for source, name in enumerate(self.names):
            places += [(source, row) for row in range(len(self.kept[name]))]
        return places

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.kept.values())

    def group(self, place: Place) -> Group:
        """Return a group before it is encoded, with changed preferences if there are any."""
        name = self.names[place[0]]
        index = int(self.kept[name][place[1]])
        group = self.groups[name][index]
        if (name, index) in self.changed:
            group = replace(group, preferences=self.changed[name, index])
        return group

    def __getitem__(self, place: Place) -> EncodedGroup:
        group, name = self.group(place), self.names[place[0]]
        try:
            return self.encoder(group, with_targets=self.with_targets)
        except RowRejected as rejection:
            # All groups were checked in `setup`, so a file must have changed since then.
            raise DataError(
                f"group '{group.id}' of source '{name}' could be read when the run began and cannot be read now "
                f"({rejection.reason}: {rejection.detail}). Restore the file and resume the run."
            ) from rejection
