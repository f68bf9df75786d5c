"""Drops preferences that a trained model strongly disagrees with, and lowers the weights of those that it doubts.

Labels of preference data are noisy: annotators agree with each other on 73 % of comparisons (InstructGPT, arXiv
2203.02155). The scores of a model that was not trained on a row are further evidence about its label.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from basereward.data.schema.group import Group, Preference, RejectedRow, Split
from basereward.errors import DataError


@dataclass
class RelabelSummary:
    """The result of relabelling groups.

    Attributes:
        drop: the threshold; see `relabel`.
        num_groups, num_lost: all groups, and those that lost all their preferences.
        num_preferences, num_dropped, num_down_weighted: all decided preferences, dropped ones, and those with a lower
            weight.
        num_ties: ties, which never change.
        weight_before, weight_after: the sum of the weights of the decided preferences; dropped ones weigh 0.
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
        """Count one group.

        Args:
            before: the group.
            after: the result of `relabel`.

        >>> from basereward.data.schema.group import Part, Turn
        >>> group = Group("a", "s", (Turn("user", (Part("6 x 7?"),)),), ("42", "41"), (Preference(0, 1),))
        >>> summary = RelabelSummary(drop=2.0)
        >>> summary.add(group, relabel(group, [0.0, 3.0], drop=2.0))
        >>> summary.num_lost, summary.num_dropped, summary.weight_after
        (1, 1, 0.0)
        """
        decided = [preference for preference in before.preferences if not preference.tie]
        kept = []
        if isinstance(after, Group):
            kept = [preference for preference in after.preferences if not preference.tie]
        self.num_groups += 1
        self.num_lost += isinstance(after, RejectedRow)
        self.num_preferences += len(decided)
        self.num_dropped += len(decided) - len(kept)
        # Only the weight can change, so a changed preference equals none of the old ones.
        self.num_down_weighted += sum(preference not in decided for preference in kept)
        self.num_ties += len(before.preferences) - len(decided)
        self.weight_before += sum(p.weight for p in decided)
        self.weight_after += sum(p.weight for p in kept)


def relabel(group: Group, scores: Sequence[float], *, drop: float, split: Split = "train") -> Group | RejectedRow:
    """Drop preferences of a group, or lower their weights, by the scores of a trained model.

    The margin of a preference is the score of its winner minus that of its loser. A preference with a margin below
    `-drop` is dropped. With a margin from `-drop` to 0, its weight is multiplied by 2 * sigmoid(margin), the model's
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
    _check_scores(group, scores, drop=drop)
    # A tie states no winner that the model could disagree with.
    kept = [preference for preference in group.preferences if preference.tie or _margin(preference, scores) >= -drop]
    # A group that had no preferences before is not lost: generative heads learn from its other annotations.
    if group.preferences and not kept:
        detail = _disagreement(group.preferences, scores, drop=drop)
        return RejectedRow(group.source, split, group.id, "disagrees", detail)
    return dataclasses.replace(group, preferences=tuple(_reweighted(preference, scores) for preference in kept))


def _check_scores(group: Group, scores: Sequence[float], *, drop: float) -> None:
    """Check the arguments of `relabel`.

    Raises:
        DataError: `drop` is negative, or the scores are not one finite number per response.
    """
    # Written so that NaN, which compares false with everything, is an error.
    if not drop >= 0:
        raise DataError(f"drop={drop}; it must be 0 or more, for example 2.0")
    if len(scores) != len(group.responses) or not all(math.isfinite(score) for score in scores):
        raise DataError(
            f"group '{group.id}' of source '{group.source}' has {len(group.responses)} responses and the scores "
            f"{list(scores)}; give one finite number for each response"
        )


def _disagreement(preferences: Sequence[Preference], scores: Sequence[float], *, drop: float) -> str:
    """Describe preferences that the model contradicts, with their margins."""
    margins = [
        f"{preference.loser} to {preference.winner} by {-_margin(preference, scores):.4g}" for preference in preferences
    ]
    return f"the model prefers {', '.join(margins)}, more than {drop:.4g}"


def relabel_all(
    groups: Iterable[tuple[Group, Sequence[float]]], *, drop: float, split: Split = "train"
) -> tuple[list[Group | RejectedRow], RelabelSummary]:
    """Apply `relabel` to every group.

    Args:
        groups: each group with the scores of its responses.
        drop, split: see `relabel`.

    Returns:
        The results in the order of the groups, and a summary.

    Raises:
        DataError: as `relabel`.

    >>> relabel_all([], drop=2.0)[1].num_groups
    0
    """
    summary = RelabelSummary(drop)
    results = []
    for group, scores in groups:
        results.append(relabel(group, scores, drop=drop, split=split))
        summary.add(group, results[-1])
    return results, summary


def _margin(preference: Preference, scores: Sequence[float]) -> float:
    return scores[preference.winner] - scores[preference.loser]


def _reweighted(preference: Preference, scores: Sequence[float]) -> Preference:
    margin = _margin(preference, scores)
    if preference.tie or margin >= 0:
        return preference
    # The sigmoid in this form cannot overflow for a negative margin.
    probability = math.exp(margin) / (1 + math.exp(margin))
    return dataclasses.replace(preference, weight=preference.weight * 2 * probability)
