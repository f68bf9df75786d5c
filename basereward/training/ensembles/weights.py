"""Computes the rule that combines the members of an ensemble, from their scores on validation data."""

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
"""Aggregations whose weights come from validation pairs."""
GroupKey: TypeAlias = tuple[str, str, int]
"""Source, id, and the number of earlier groups with the same source and id."""


def validation_scores(members: Sequence[Member], *, needed: bool) -> list[list[ScoredGroup]]:
    """Read the validation scores of all members, for the same groups in the same order.

    Args:
        members: of the ensemble.
        needed: raise an error when there are no common groups.

    Returns:
        M lists of the same groups; [] when the members have no common groups and they are not needed.

    Raises:
        ModelError: groups are needed, and a member has none or other ones than the first; or a score is not finite.

    >>> validation_scores([Member("a", Path("no-such-run/model"), digest="9f2c")], needed=False)
    []
    """
    groups_of: list[dict[GroupKey, ScoredGroup]] = []
    for member in members:
        file = RunFolder(member.folder.parent).scores / "val.jsonl"
        if not file.is_file():
            # Without weights the scores serve only to report an accuracy, which may be missing.
            if needed:
                raise ModelError(
                    f"member '{member.name}' has no validation scores ({file} does not exist), from which its weight "
                    "is computed; give the run that trained it, or take how=mean"
                )
            return []
        # A source may use one id several times; numbers keep the groups apart.
        keyed = numbered(read_scores(file), lambda group: (group.source, group.id))
        groups = {(*key, number): group for key, number, group in keyed}
        _check_finite(member, file, groups)
        groups_of.append(groups)
    for member, groups in zip(members[1:], groups_of[1:], strict=True):
        difference = _difference(groups_of[0], groups)
        if difference and needed:
            raise ModelError(
                f"member '{member.name}' was validated on other pairs than '{members[0].name}': {difference}. Weights "
                "need the same pairs; train with the same data and seeds.data, or take how=mean"
            )
        if difference:
            return []
    # The order of the first member for all of them, so that the lists are parallel.
    keys = list(groups_of[0])
    return [list(map(groups.__getitem__, keys)) for groups in groups_of]


def _check_finite(member: Member, file: Path, groups: Mapping[GroupKey, ScoredGroup]) -> None:
    invalid = [key for key, group in groups.items() if not np.isfinite(group.scores).all()]
    if invalid:
        raise ModelError(
            f"member '{member.name}' has validation scores that are NaN or infinite, in {len(invalid)} groups "
            f"(for example {invalid[0][0]} {invalid[0][1]} in {file}); leave it out, or train it again"
        )


def _difference(first: Mapping[GroupKey, ScoredGroup], other: Mapping[GroupKey, ScoredGroup]) -> str | None:
    """How the groups of two members differ; None when they are the same."""
    if first.keys() != other.keys():
        return f"{len(first.keys() - other.keys())} groups are missing, {len(other.keys() - first.keys())} are new"
    changed = [key for key in first if first[key].preferences != other[key].preferences]
    return f"{len(changed)} groups have other preferences, for example {changed[0][:2]}" if changed else None


def find_rule(
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    routes: Mapping[str, tuple[int, ...]],
) -> Rule:
    """Compute the rule of an ensemble. Each route has weights of its own, computed from its members alone.

    Args:
        recipe: of the ensemble.
        members: M members.
        scored: M lists of the same validation groups; [] when the rule needs none.
        routes: indices of the members that score prompts without (`text`) and with (`image`) images.

    Raises:
        ModelError: a member lacks what its weight is computed from; the message names it.

    >>> members = [Member(name, Path(name), digest=name) for name in ("a", "b")]
    >>> rule = find_rule(EnsembleRecipe(how="worst"), members, [], routes={})
    >>> rule.combine(np.array([[1.0, 4.0], [3.0, 2.0]])).tolist()
    [1.0, 2.0]
    """
    options: dict[str, Any] = {"members": len(members), "k": recipe.k, **routes}
    if recipe.how in WEIGHTED:
        margins, groups = drawn_margins(scored, pairs=recipe.pairs, seed=recipe.seed)
        everyone = tuple(range(len(members)))
        weights, intervals = _weights(recipe, members, margins, groups, active=routes.get("image", everyone))
        options |= {"weights": weights, "intervals": intervals}
        if routes:
            weights, intervals = _weights(recipe, members, margins, groups, active=routes["text"])
            options |= {"text_weights": weights, "text_intervals": intervals}
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
    active: Sequence[int],
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Compute M weights, and M intervals when they are learned.

    Args:
        recipe: of the ensemble.
        members: M members.
        margins: `(M, P)`, of P pairs.
        groups: P, the group of each pair.
        active: indices of the members that get a weight; that of the others is 0.
    """
    active_margins = margins[list(active)]
    active_intervals: tuple[tuple[float, float], ...] = ()
    names = ", ".join(members[index].name for index in active)
    if recipe.how == "learned":
        active_weights, active_intervals = logistic_weights(active_margins, groups=groups, seed=recipe.seed)
        if not any(active_weights):
            raise ModelError(f"the learned weights of {names} are all 0: they separate no pair; take how=mean")
    else:
        values = active_margins > 0 if recipe.how == "accuracy" else active_margins
        try:
            active_weights = shares(values.mean(1).tolist())
        except ModelError as error:
            raise ModelError(f"the {recipe.how} of {names} gives no weights: {error}") from error
    # A rule has one weight per member; members of the other route get 0.
    weights = [0.0] * len(members)
    intervals = [(0.0, 0.0)] * len(members) if active_intervals else []
    for position, index in enumerate(active):
        weights[index] = active_weights[position]
        if active_intervals:
            intervals[index] = active_intervals[position]
    return tuple(weights), tuple(intervals)


def _spreads(members: Sequence[Member]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations of the members' scores on validation data, for standardising."""
    cards = [read_card(member.folder)["scores"] for member in members]
    for member, card in zip(members, cards, strict=True):
        if not {"mean", "std"} <= card.keys():
            raise ModelError(
                f"member '{member.name}' lacks mean and standard deviation of its validation scores, which "
                "how=standardised needs; take how=mean"
            )
        if not (np.isfinite(card["mean"]) and 0 < card["std"] < np.inf):
            raise ModelError(
                f"member '{member.name}' has validation scores of mean {card['mean']:g} and standard deviation "
                f"{card['std']:g}; standardising needs a finite one above 0. Leave the member out, or take how=mean"
            )
    return tuple(card["mean"] for card in cards), tuple(card["std"] for card in cards)


def drawn_margins(scored: Sequence[Sequence[ScoredGroup]], *, pairs: int, seed: int) -> tuple[MemberScores, list[int]]:
    """Sample the margins of validation pairs without ties, equally many of each source.

    Args:
        scored: M lists of the same groups.
        pairs: largest number of pairs; a source has at least one.
        seed: of the sample.

    Returns:
        Margins `(M, P)`, and the index of the group of each of the P pairs.

    Raises:
        ModelError: there are no pairs.

    >>> one, two = (ScoredGroup("1", "text", scores, [5, 5], [(0, 1, False)]) for scores in ([3.0, 1.0], [0.5, 1.0]))
    >>> margins, groups = drawn_margins([[one], [two]], pairs=10, seed=0)
    >>> margins.tolist(), groups
    ([[2.0], [-0.5]], [0])
    """
    # By source: (group, winner, loser). A tie has no sign that a weight could learn from.
    pairs_of: dict[str, list[tuple[int, int, int]]] = {}
    for index, group in enumerate(scored[0]):
        untied = [(index, winner, loser) for winner, loser, tie in group.preferences if not tie]
        pairs_of.setdefault(group.source, []).extend(untied)
    pairs_per_source = max(pairs // max(len(pairs_of), 1), 1)
    sample: list[tuple[int, int, int]] = []
    for source, source_pairs in sorted(pairs_of.items()):
        # A generator per source: the sample of one source does not depend on the others.
        generator = random.Random(f"{seed}/{source}")
        sample += generator.sample(source_pairs, min(pairs_per_source, len(source_pairs)))
    if not sample:
        raise ModelError("the validation data of the members have no pairs to compute weights from; take how=mean")
    margins = []
    for groups in scored:
        margins.append([groups[index].scores[winner] - groups[index].scores[loser] for index, winner, loser in sample])
    return np.array(margins), [index for index, _, _ in sample]
