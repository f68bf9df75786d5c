"""Preferences that a trained model strongly disagrees with are dropped, and those that it doubts weigh less."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from basereward.data.schema.group import Group, Preference, RejectedRow, Split
from basereward.errors import DataError


@dataclass
class RelabelSummary:
    """What a pass over a source did, and the threshold it was done with.

    `weight_before` and `weight_after` are sums over the decided preferences, dropped ones with a weight of 0.
    """

    drop: float
    num_groups: int = 0
    num_lost: int = 0
    num_preferences: int = 0
    num_dropped: int = 0
    num_down_weighted: int = 0
    num_ties: int = 0
    weight_before: float = 0.0
    weight_after: float = 0.0

    def add(self, before: Group, after: Group | RejectedRow) -> None:
        """Counts one group and what became of it."""
        decided = [preference for preference in before.preferences if not preference.tie]
        kept = [] if isinstance(after, RejectedRow) else [p for p in after.preferences if not p.tie]
        self.num_groups += 1
        self.num_lost += isinstance(after, RejectedRow)
        self.num_preferences += len(decided)
        self.num_dropped += len(decided) - len(kept)
        self.num_down_weighted += sum(p not in decided for p in kept)
        self.num_ties += len(before.preferences) - len(decided)
        self.weight_before += sum(p.weight for p in decided)
        self.weight_after += sum(p.weight for p in kept)


def relabel(group: Group, scores: Sequence[float], *, drop: float, split: Split = "train") -> Group | RejectedRow:
    """Weight or drop the preferences of a group by the scores of a trained model.

    The margin of a preference is the score of its winner minus that of its loser. With a margin below `-drop` the
    preference is dropped. With a margin from there to 0, its weight is multiplied by 2 * sigmoid(margin), the model's
    probability of the preference relative to 0.5. Other preferences and ties are unchanged.

    Args:
        group: the group.
        scores: one per response, from a model that has not been trained on the group.
        drop: 0 or more, in units of the model's scores.
        split: the split of the group, for a rejection.

    Returns:
        The group, or a `RejectedRow` with the reason `disagrees` if all its preferences are dropped.

    Raises:
        DataError: `drop` is negative, or the scores are not one finite number per response.

    >>> from basereward.data.schema.group import Part, Turn
    >>> prompt = (Turn("user", (Part("What is 6 x 7?"),)),)
    >>> group = Group("q", "s", prompt, ("42", "41"), (Preference(0, 1),))
    >>> round(relabel(group, [0.0, 1.0], drop=2.0).preferences[0].weight, 3)
    0.538
    >>> relabel(group, [0.0, 3.0], drop=2.0).detail
    'the model prefers 1 to 0 by 3, more than 2'
    """
    if not drop >= 0:
        raise DataError(f"drop={drop}; it must be 0 or more, for example 2.0")
    if len(scores) != len(group.responses) or not all(math.isfinite(score) for score in scores):
        raise DataError(
            f"group '{group.id}' of source '{group.source}': its {len(group.responses)} responses have the scores "
            f"{list(scores)}; one finite number for each is needed"
        )
    kept = [p for p in group.preferences if p.tie or _margin(p, scores) >= -drop]
    if group.preferences and not kept:
        detail = ", ".join(
            f"{p.loser} to {p.winner} by {-_margin(p, scores):.4g}" for p in group.preferences if not p.tie
        )
        return RejectedRow(
            group.source, split, group.id, "disagrees", f"the model prefers {detail}, more than {drop:.4g}"
        )
    return dataclasses.replace(group, preferences=tuple(_weighed(p, scores) for p in kept))


def relabel_all(
    groups: Iterable[tuple[Group, Sequence[float]]], *, drop: float, split: Split = "train"
) -> tuple[list[Group | RejectedRow], RelabelSummary]:
    """Apply `relabel` to every group, in order; also return a summary.

    Raises:
        DataError: as `relabel`.
    """
    summary = RelabelSummary(drop)
    results = []
    for group, scores in groups:
        results.append(relabel(group, scores, drop=drop, split=split))
        summary.add(group, results[-1])
    return results, summary


def _margin(preference: Preference, scores: Sequence[float]) -> float:
    return scores[preference.winner] - scores[preference.loser]


def _weighed(preference: Preference, scores: Sequence[float]) -> Preference:
    margin = _margin(preference, scores)
    if preference.tie or margin >= 0:
        return preference
    chance = math.exp(margin) / (1 + math.exp(margin))  # margin < 0, so exp cannot overflow
    return dataclasses.replace(preference, weight=preference.weight * 2 * chance)
