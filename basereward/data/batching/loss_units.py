"""The units over which a ranking loss is averaged.

Their total over an optimizer step is known before its first micro-batch, so that the loss of a step does not depend on
its division into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from basereward.data.schema.group import Preference

Unit: TypeAlias = Literal["group", "decided_group", "preference", "decided_preference"]
"""`decided_...`: ties, and groups with ties only, are not counted. Every training group has a preference, so the number
of groups of a step is known from the plan, without reading a group."""


def count_units(unit: Unit, counts: Iterable[tuple[int, int]]) -> int:
    """Count the units of groups.

    Args:
        unit: the unit.
        counts: for each group, the number of its preferences and how many of them are ties.

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
    """Count the preferences of a group and the ties among them.

    >>> group_counts([Preference(0, 1), Preference(1, 2, tie=True)])
    (2, 1)
    """
    return len(preferences), sum(preference.tie for preference in preferences)
