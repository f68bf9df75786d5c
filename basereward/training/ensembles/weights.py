"""From members' scores on validation data to the rule that combines them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from basereward.errors import ModelError
from basereward.inference.aggregation import MemberScores, Rule, shares
from basereward.inference.ensemble import Member
from basereward.metrics.logistic import logistic_weights
from basereward.model.saving.card import read_card
from basereward.recipe.schema import EnsembleRecipe
from basereward.runs.common_test_set import numbered
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, read_scores

WEIGHTED = ("accuracy", "confidence", "learned")


GroupKey: TypeAlias = tuple[str, str, int]  # source, id, and which one of the groups with this id


def validation_scores(members: Sequence[Member], *, needed: bool) -> list[list[ScoredGroup]]:
    """Of every member the same validation groups in the same order; none where a member has others and they are not
    needed.

    Raises:
        ModelError: they are needed, and a member has none or others than the first; or a score of one is not finite.
    """
    found: list[dict[GroupKey, ScoredGroup]] = []
    for member in members:
        file = RunFolder(member.folder.parent).scores / "val.jsonl"
        if not file.is_file():
            if needed:
                raise ModelError(
                    f"member '{member.name}' has no validation scores ({file} is not there), which its weight is made "
                    "from; give the run that trained it, or take how=mean"
                )
            return []
        same = numbered(read_scores(file), lambda group: (group.source, group.id))
        found.append({(*head, number): group for head, number, group in same})
        _check_finite(member, file, found[-1])
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


def _check_finite(member: Member, file: Path, groups: Mapping[GroupKey, ScoredGroup]) -> None:
    wrong = [key for key, group in groups.items() if not np.isfinite(group.scores).all()]
    if wrong:
        raise ModelError(
            f"member '{member.name}' has validation scores that are NaN or infinite, of {len(wrong)} groups "
            f"({wrong[0][0]} {wrong[0][1]} for one, in {file}); leave it out, or train it anew"
        )


def _difference(first: Mapping[GroupKey, ScoredGroup], other: Mapping[GroupKey, ScoredGroup]) -> str | None:
    if first.keys() != other.keys():
        return f"{len(first.keys() - other.keys())} groups are missing, {len(other.keys() - first.keys())} are new"
    changed = [key for key in first if first[key].preferences != other[key].preferences]
    return f"{len(changed)} groups have other preferences, {changed[0][:2]} for one" if changed else None


def find_rule(
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    routes: Mapping[str, tuple[int, ...]],
) -> Rule:
    """The rule. Of prompts that some members score alone, these have weights of their own, made from them alone.

    Args:
        scored: of every member the same validation groups; none where they are not needed.
        routes: places of the members that score prompts without (`text`) and with (`image`) pictures.

    Raises:
        ModelError: a member lacks what its weight is made from; the message names it.
    """
    options: dict[str, Any] = {"members": len(members), "k": recipe.k, **routes}
    if recipe.how in WEIGHTED:
        margins, groups = drawn_margins(scored, pairs=recipe.pairs, seed=recipe.seed)
        everyone = tuple(range(len(members)))
        made = _weights(recipe, members, margins, groups, asked=routes.get("image", everyone))
        options |= {"weights": made[0], "intervals": made[1]}
        if routes:
            made = _weights(recipe, members, margins, groups, asked=routes["text"])
            options |= {"text_weights": made[0], "text_intervals": made[1]}
        return Rule("weighted", **options)
    if recipe.how == "standardised":
        means, deviations = _spreads(members)
        return Rule("standardised", means=means, deviations=deviations, **options)
    assert recipe.how in ("mean", "worst", "pessimistic")
    return Rule(recipe.how, **options)


def _weights(
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    margins: MemberScores,
    groups: Sequence[int],
    *,
    asked: Sequence[int],
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """M weights, 0 for members that are not asked, and where they are learned M intervals.

    Args:
        margins: `(M, P)`.
        groups: P, the group of each pair.
    """
    own = margins[list(asked)]
    intervals: tuple[tuple[float, float], ...] = ()
    named = ", ".join(members[place].name for place in asked)
    if recipe.how == "learned":
        weights, intervals = logistic_weights(own, groups=groups, seed=recipe.seed)
        if not any(weights):
            raise ModelError(f"the learned weights of {named} are all 0: they tell no pair apart; take how=mean")
    else:
        try:
            weights = shares(((own > 0) if recipe.how == "accuracy" else own).mean(1).tolist())
        except ModelError as error:
            raise ModelError(f"the {recipe.how} of {named} makes no weights: {error}") from error
    of = dict(zip(asked, weights, strict=True))
    between = dict(zip(asked, intervals, strict=True)) if intervals else {}
    everyone = range(len(margins))
    return (
        tuple(of.get(place, 0.0) for place in everyone),
        tuple(between.get(place, (0.0, 0.0)) for place in everyone) if intervals else (),
    )


def _spreads(members: Sequence[Member]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every member's scores on validation data."""
    cards = [read_card(member.folder)["scores"] for member in members]
    for member, card in zip(members, cards, strict=True):
        if not {"mean", "std"} <= card.keys():
            raise ModelError(
                f"member '{member.name}' does not know the spread of its scores on validation data, which "
                "standardising needs; take how=mean"
            )
        if not (np.isfinite(card["mean"]) and 0 < card["std"] < np.inf):
            raise ModelError(
                f"member '{member.name}' has validation scores of mean {card['mean']:g} and standard deviation "
                f"{card['std']:g}; standardising divides by a finite one above 0. Leave it out, or take how=mean"
            )
    return tuple(card["mean"] for card in cards), tuple(card["std"] for card in cards)


def drawn_margins(scored: Sequence[Sequence[ScoredGroup]], *, pairs: int, seed: int) -> tuple[MemberScores, list[int]]:
    """`(M, P)`: the margins of at most so many pairs, as many of each source and at least one, ties left out; and P,
    the place of each pair's group."""
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
    margins = np.array(
        [[own[place].scores[winner] - own[place].scores[loser] for place, winner, loser in drawn] for own in scored]
    )
    return margins, [place for place, _, _ in drawn]
