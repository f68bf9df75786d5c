"""The groups of one part of the data, as the loader asks for them."""

from __future__ import annotations

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
    """The usable groups of one part, encoded when they are asked for."""

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

    @property
    def places(self) -> list[Place]:
        """Every group, source after source."""
        return [(s, row) for s, name in enumerate(self.names) for row in range(len(self.kept[name]))]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.kept.values())

    def group(self, place: Place) -> Group:
        """A group before it is encoded, with the preferences that it is trained on."""
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
        except RowRejected as loss:
            raise DataError(
                f"group '{group.id}' of source '{name}' could be read when the run began and cannot be read now "
                f"({loss.reason}: {loss.detail}). Put the file back and resume the run."
            ) from loss
