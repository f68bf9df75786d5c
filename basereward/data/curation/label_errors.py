"""Finds preferences that are probably the wrong way round, by margins of models that were not trained on them.

The threshold is that of confident learning (Northcutt et al., arXiv 1911.00068, equation 2) for the two classes of a
pair, which are symmetric: a label is an error if the probability of the other class is at least the mean probability of
the labels as given. It needs no number to be set, and it follows the confidence of the model: a model that agrees with
nearly all labels has a high threshold, and little is changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError

LabelDecision: TypeAlias = Literal["keep", "drop", "flip"]


@dataclass(frozen=True, slots=True)
class Decided:
    """What is done with a preference.

    Attributes:
        id: of the group.
        winner, loser: indices of the responses, as labelled.
        margin: the model's score of the winner minus that of the loser.
        decision: whether it stays, is left out, or is flipped: winner and loser change places.

    >>> Decided("a", winner=0, loser=1, margin=-3.0, decision="flip").as_row()["decision"]
    'flip'
    """

    id: str
    winner: int
    loser: int
    margin: float
    decision: LabelDecision

    def as_row(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ErrorRule:
    """From which margin a preference is dropped, and from which it is flipped instead.

    Attributes:
        drop: a preference whose margin is at most `-drop` is an error; 0 or more, in units of the scores.
        flip: an error whose margin is at most `-flip` is flipped; None: none is.

    >>> rule = ErrorRule(drop=1.0, flip=2.0)
    >>> [rule.decide(margin) for margin in (0.5, -0.5, -1.0, -2.0)]
    ['keep', 'keep', 'drop', 'flip']
    """

    drop: float
    flip: float | None = None

    def decide(self, margin: float) -> LabelDecision:
        """What is done with a preference of this margin."""
        # A margin of 0 says nothing about the label, also where the threshold is 0.
        if margin >= 0 or margin > -self.drop:
            return "keep"
        return "flip" if self.flip is not None and margin <= -self.flip else "drop"


def confident_threshold(margins: Sequence[float]) -> float:
    """The margin against a label from which confident learning counts it as an error.

    Args:
        margins: of all labels, from models that were not trained on them; scores of the winner minus the loser.

    Returns:
        0 or more. With p the mean of `sigmoid(margin)`, it is `log(p / (1 - p))`; 0 if the model agrees with fewer
        labels than chance, and infinity if there are no margins.

    >>> round(confident_threshold([2.0, 2.0, 2.0, -2.0]), 3)
    0.802
    """
    if not margins:
        return math.inf
    mean = sum(_sigmoid(margin) for margin in margins) / len(margins)
    if mean <= 0.5:
        return 0.0
    return math.inf if mean >= 1 else math.log(mean / (1 - mean))


def _sigmoid(value: float) -> float:
    # In this form no exponential overflows.
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def margins_of(group: Group, scores: Sequence[float]) -> Iterator[tuple[Preference, float]]:
    """The preferences of a group that are no ties, with their margins.

    Args:
        group: the group.
        scores: one per response.

    Raises:
        DataError: the scores are not one finite number per response.

    >>> list(margins_of(Group("a", "s", (), ("4", "5"), (Preference(0, 1),)), [1.0, 3.0]))[0][1]
    -2.0
    """
    if len(scores) != len(group.responses) or not all(math.isfinite(score) for score in scores):
        raise DataError(
            f"group '{group.id}' of source '{group.source}' has {len(group.responses)} responses and the scores "
            f"{list(scores)}; one finite number for each response is needed"
        )
    for preference in group.preferences:
        if not preference.tie:
            yield preference, scores[preference.winner] - scores[preference.loser]


def correct(group: Group, scores: Sequence[float], rule: ErrorRule) -> tuple[Group | None, list[Decided]]:
    """Drop or flip the preferences of a group that a rule takes for errors. Ties stay.

    Args:
        group: with its labels as given.
        scores: one per response.
        rule: of the decisions.

    Returns:
        The group, or None if it had preferences and all are dropped; and the decision about each preference that is no
        tie. A group with a flipped preference loses its ratings, critiques and reasonings, which say the opposite.

    Raises:
        DataError: as `margins_of`.

    >>> group = Group("a", "s", (), ("4", "5"), (Preference(0, 1),))
    >>> corrected, decided = correct(group, [0.0, 3.0], ErrorRule(drop=1.0, flip=1.0))
    >>> corrected.preferences[0].winner, decided[0].decision
    (1, 'flip')
    """
    decided: list[Decided] = []
    kept = [preference for preference in group.preferences if preference.tie]
    for preference, margin in margins_of(group, scores):
        decision = rule.decide(margin)
        decided.append(Decided(group.id, preference.winner, preference.loser, margin, decision))
        if decision == "keep":
            kept.append(preference)
        elif decision == "flip":
            kept.append(turned_round(preference))
    decisions = {item.decision for item in decided}
    if decisions <= {"keep"}:
        return group, decided
    if "flip" in decisions:
        group = without_annotations(group)
    return (dataclasses.replace(group, preferences=tuple(kept)) if kept else None), decided


def turned_round(preference: Preference) -> Preference:
    """The preference with winner and loser exchanged.

    >>> turned_round(Preference(0, 1, margin=2.0))
    Preference(winner=1, loser=0, weight=1.0, margin=None, tie=False)
    """
    # By how much the other response is better is not known.
    return dataclasses.replace(preference, winner=preference.loser, loser=preference.winner, margin=None)


def without_annotations(group: Group) -> Group:
    """The group without what generative heads learn from, which contradicts other labels.

    >>> without_annotations(Group("a", "s", (), ("4", "5"), ratings=(1.0, 0.0))).ratings
    ()
    """
    return dataclasses.replace(group, ratings=(), critiques=(), reasonings=())


def precision_and_recall(decided: Iterable[Decided], wrong: Mapping[str, bool]) -> tuple[float, float, int]:
    """How well the changed preferences match those that are known to be wrong.

    Args:
        decided: about all preferences.
        wrong: whether the labels of a group are wrong, by its id.

    Returns:
        The share of the changed preferences that were wrong (NaN if none was changed), the share of the wrong ones that
        were changed (NaN if none was wrong), and the number of changed ones.

    >>> rows = [Decided("a", 0, 1, -2.0, "flip"), Decided("b", 0, 1, -1.0, "drop"), Decided("c", 0, 1, 1.0, "keep")]
    >>> precision_and_recall(rows, {"a": True, "b": False, "c": True})
    (0.5, 0.5, 2)
    """
    changed = hits = errors = 0
    for item in decided:
        is_changed = item.decision != "keep"
        changed += is_changed
        errors += wrong[item.id]
        hits += is_changed and wrong[item.id]
    return (hits / changed if changed else math.nan), (hits / errors if errors else math.nan), changed
