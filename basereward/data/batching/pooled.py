"""Groups with cached pooled states; their batches need neither tokens nor images.

Shapes: K responses, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from basereward.data.batching.collate import preference_pairs
from basereward.data.batching.plan import Place
from basereward.data.batching.tree_batch import TokenRows, TreeBatch
from basereward.data.schema.group import Preference


@dataclass(frozen=True, slots=True)
class PooledGroup:
    """The input of a scalar head for one group."""

    id: str
    source: str
    preferences: tuple[Preference, ...]
    lengths: tuple[int, ...]  # (K,) tokens of each response without its end-of-turn token
    states: Tensor  # (K, D) float32, the hidden states at the pooled tokens


class PooledDataset(Dataset[PooledGroup]):
    """The groups of a split that a run reads, by their place."""

    def __init__(self, groups: Mapping[Place, PooledGroup]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: Place) -> PooledGroup:
        return self.groups[place]


def collate_pooled(groups: Sequence[PooledGroup]) -> TreeBatch:
    """Make a batch without rows, with pooled states; the other fields are those of `collate`."""
    no_tokens = torch.empty(0, 0, dtype=torch.int64)
    lengths: list[int] = []
    for group in groups:
        lengths += group.lengths
    return TreeBatch(
        rows=TokenRows(
            layout="tree",
            input_ids=no_tokens,
            position_ids=no_tokens,
            trees=[],
            group=no_tokens,
            branch=no_tokens,
            ends=torch.empty(0, 2, dtype=torch.int64),
        ),
        lengths=torch.tensor(lengths),
        responses=[len(group.lengths) for group in groups],
        ids=[group.id for group in groups],
        sources=[group.source for group in groups],
        pooled=torch.cat([group.states for group in groups]),
        preferences=preference_pairs([(group.preferences, len(group.lengths)) for group in groups]),
    )
