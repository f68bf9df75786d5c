"""From members' scores on validation data to the rule that combines them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from basereward.errors import ModelError
from basereward.metrics.logistic import logistic_weights
from basereward.model.combining import Rule, Scores, shares
from basereward.model.ensemble import Member
from basereward.model.saving import read_card
from basereward.recipe.schema import EnsembleRecipe
from basereward.train.runs import RunFolder
from basereward.train.scores import ScoredGroup, read_scores

WEIGHTED = ("accuracy", "confidence", "learned")


def validation_scores(members: Sequence[Member], *, needed: bool) -> list[list[ScoredGroup]]:
    """Of every member the same validation groups in the same order; none where a member has others and they are not
    needed."""
    found: list[dict[tuple[str, str], ScoredGroup]] = []
    for member in members:
        file = RunFolder(member.folder.parent).scores / "val.jsonl"
        if not file.is_file():
            if needed:
                raise ModelError(
                    f"member '{member.name}' has no validation scores ({file} is not there), which its weight is made "
                    "from; give the run that trained it, or take how=mean"
                )
            return []
        found.append({(group.source, group.id): group for group in read_scores(file)})
    for member, groups in zip(members[1:], found[1:], strict=True):
        fault = _difference(found[0], groups)
        if fault and needed:
            raise ModelError(
                f"member '{member.name}' was validated on other pairs than '{members[0].name}': {fault}. Weights "
                "are made from the same pairs; train with the same data and seeds.data, or take how=mean"
            )
        if fault:
            return []
    return [[groups[key] for key in found[0]] for groups in found]


def _difference(
    first: Mapping[tuple[str, str], ScoredGroup], other: Mapping[tuple[str, str], ScoredGroup]
) -> str | None:
    if first.keys() != other.keys():
        return f"{len(first.keys() - other.keys())} groups are missing, {len(other.keys() - first.keys())} are new"
    changed = [key for key in first if first[key].preferences != other[key].preferences]
    return f"{len(changed)} groups have other preferences, {changed[0]} for one" if changed else None


def find_rule(
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    routes: Mapping[str, tuple[int, ...]],
) -> tuple[Rule, list[float | None]]:
    """The rule, and every member's weight where it has one.

    Args:
        scored: of every member the same validation groups; none where they are not needed.
        routes: places of the members that score prompts without (`text`) and with (`image`) pictures.

    Raises:
        ModelError: a member lacks what its weight is made from; the message names it.
    """
    count = len(members)
    options: dict[str, Any] = {"members": count, "k": recipe.k, **routes}
    if recipe.how in WEIGHTED:
        margins = _margins(scored, pairs=recipe.pairs, seed=recipe.seed)
        intervals: tuple[tuple[float, float], ...] = ()
        if recipe.how == "accuracy":
            weights = shares((margins > 0).mean(1).tolist())
        elif recipe.how == "confidence":
            weights = shares(margins.mean(1).tolist())
        else:
            weights, intervals = logistic_weights(margins, seed=recipe.seed)
        return Rule("weighted", weights=weights, intervals=intervals, **options), list(weights)
    if recipe.how == "standardised":
        means, deviations = _spreads(members)
        return Rule("standardised", means=means, deviations=deviations, **options), [None] * count
    assert recipe.how in ("mean", "worst", "pessimistic")
    return Rule(recipe.how, **options), [1 / count if recipe.how == "mean" else None] * count


def _spreads(members: Sequence[Member]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every member's scores on validation data."""
    cards = [read_card(member.folder)["scores"] for member in members]
    for member, card in zip(members, cards, strict=True):
        if not card:
            raise ModelError(
                f"member '{member.name}' does not know the spread of its scores on validation data, which "
                "standardising needs; take how=mean"
            )
    return tuple(card["mean"] for card in cards), tuple(card["std"] for card in cards)


def _margins(scored: Sequence[Sequence[ScoredGroup]], *, pairs: int, seed: int) -> Scores:
    """`(M, P)`: the margins of at most so many pairs, as many of each source as there are, ties left out."""
    by_source: dict[str, list[tuple[int, int, int]]] = {}
    for place, group in enumerate(scored[0]):
        mine = [(place, winner, loser) for winner, loser, tie in group.preferences if not tie]
        by_source.setdefault(group.source, []).extend(mine)
    each = max(pairs // max(len(by_source), 1), 1)
    drawn = [
        pair
        for source, found in sorted(by_source.items())
        for pair in random.Random(f"{seed}/{source}").sample(found, min(each, len(found)))
    ]
    if not drawn:
        raise ModelError("the members' validation data have no pairs to make weights from; take how=mean")
    return np.array(
        [[own[place].scores[winner] - own[place].scores[loser] for place, winner, loser in drawn] for own in scored]
    )
