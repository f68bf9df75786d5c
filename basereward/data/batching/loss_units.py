"""What a ranking loss is a mean over. Its total over an optimizer step is known before the step's first forward pass,
so that a step's loss does not depend on how its groups are shared out over forward passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import torch

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Preference

Unit: TypeAlias = Literal["group", "decided_group", "preference", "decided_preference"]
"""`decided`: ties, and groups that have nothing but ties, are left out. Every group that is trained on has a
preference, so the number of a step's groups is that of the plan, and no group needs to be read for it."""


def count_units(unit: Unit, counts: Iterable[tuple[int, int]]) -> int:
    """The number of units in some groups.

    Args:
        counts: of each group the number of its preferences, and how many of them are ties.

    >>> counts = [(3, 1), (1, 1), (1, 0)]
    >>> [count_units(unit, counts) for unit in ("group", "decided_group", "preference", "decided_preference")]
    [3, 2, 5, 3]
    """
    number = 0
    for preferences, ties in counts:
        decided = preferences - ties
        sizes = {
            "group": 1,
            "decided_group": int(decided > 0),
            "preference": preferences,
            "decided_preference": decided,
        }
        number += sizes[unit]
    return number


def group_counts(preferences: Sequence[Preference]) -> tuple[int, int]:
    """The number of a group's preferences, and how many of them are ties."""
    return len(preferences), sum(preference.tie for preference in preferences)


def batch_counts(batch: TreeBatch) -> list[tuple[int, int]]:
    """`group_counts` of every group of a batch."""
    groups = batch.preference_group.cpu()
    preferences = torch.bincount(groups, minlength=batch.num_groups)
    ties = torch.bincount(groups[batch.tie.cpu()], minlength=batch.num_groups)
    return list(zip(preferences.tolist(), ties.tolist(), strict=True))
