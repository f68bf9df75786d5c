"""Groups whose pooled states are known, so that a batch of them needs no tokens and no pictures.

Shapes: K responses, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from basereward.data.batching.plan import Place
from basereward.data.batching.tree_batch import TreeBatch, preference_tensors
from basereward.data.schema.group import Preference


@dataclass(frozen=True, slots=True)
class PooledGroup:
    """A group as a scalar head takes it."""

    id: str
    source: str
    preferences: tuple[Preference, ...]
    lengths: tuple[int, ...]  # K: tokens of every response, its end of turn left out
    states: Tensor  # (K, D) float32


class PooledDataset(Dataset[PooledGroup]):
    """The groups of one part that a run reads, by their place."""

    def __init__(self, groups: Mapping[Place, PooledGroup]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: Place) -> PooledGroup:
        return self.groups[place]


def collate_pooled(groups: Sequence[PooledGroup]) -> TreeBatch:
    """A batch without rows, whose branches are known by their pooled states; else as `collate` makes it."""
    tokens = torch.empty(0, 0, dtype=torch.int64)
    return TreeBatch(
        layout="tree",
        input_ids=tokens,
        position_ids=tokens,
        trees=[],
        group=tokens,
        branch=tokens,
        ends=torch.empty(0, 2, dtype=torch.int64),
        pixels=None,
        image_grid_thw=None,
        lengths=torch.tensor([length for group in groups for length in group.lengths]),
        responses=[len(group.lengths) for group in groups],
        ids=[group.id for group in groups],
        sources=[group.source for group in groups],
        pooled=torch.cat([group.states for group in groups]),
        **preference_tensors([(group.preferences, len(group.lengths)) for group in groups]),
    )
