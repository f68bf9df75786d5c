"""An ensemble made of runs: `basereward ensemble`."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from basereward.errors import ModelError, RunError, unknown
from basereward.metrics.logistic import logistic_weights
from basereward.model.combining import Rule, Scores, shares
from basereward.model.ensemble import Member, find_member, write_ensemble
from basereward.model.saving import read_card
from basereward.model.soup import soup
from basereward.train.locate import locate
from basereward.train.runs import RunFolder
from basereward.train.scores import ScoredGroup, read_scores, write_scores
from basereward.train.tracking import Tracker

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["mean", "accuracy", "confidence", "learned", "standardised", "worst", "pessimistic", "soup"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WEIGHTED = ("accuracy", "confidence", "learned")
PAIRS = 1000  # of BaseReward, section 5


def ensemble(
    models: Sequence[str],
    *,
    how: str = "mean",
    text: Sequence[str] = (),
    name: str | None = None,
    pairs: int = PAIRS,
    k: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Makes an ensemble of trained models, as a run of its own.

    Args:
        models: two or more, as `load` opens them. They score prompts with pictures, and where `text` names none all.
        how: `mean` of raw scores; weights by validation `accuracy` or `confidence` (mean margin), as BaseReward's Table
            7 has them, or `learned` by logistic regression; `standardised`; `worst`; `pessimistic`, with `k`; or
            `soup`, one model whose weights are the members' mean.
        text: models that score prompts without pictures; among `models` or further ones.
        name: of the run.
        pairs: validation pairs that weights are made from, as many of each source.
        k: see `Rule`.
        seed: of the draw of pairs.

    Returns:
        `run_id`, `model`, `how`, `members` (name, weight, accuracy on the validation pairs), `accuracy` of the whole on
        them, None where there are no validation scores in common.

    Raises:
        ModelError: a member is missing, no model, or has no validation scores where they are needed, or others than the
            first; a number is out of its range. The message names the member.
    """
    if how not in KINDS:
        raise ModelError(unknown("way to combine", how, KINDS))
    kind: Kind = how
    named = list(dict.fromkeys([*models, *text]))
    if len(named) < 2 or pairs < 1 or k < 0:
        raise ModelError(f"{len(named)} members, --pairs {pairs}, --k {k:g}: two members, one pair and 0 are the least")
    members = [find_member(_reference(each), locate(each)) for each in named]
    scored = _validation(members, needed=kind in WEIGHTED)
    if kind == "soup":
        return _make_soup(members, name=name, text=text)
    routes = _routes(named, models=models, text=text)
    rule, weights = _rule(kind, members, scored, pairs=pairs, seed=seed, k=k, routes=routes)
    run = _create(name or f"ensemble-{kind}", members, kind)
    write_ensemble(run.model, names=[m.name for m in members], digests=[m.digest for m in members], rule=rule)
    whole = _combined(scored, rule) if scored else []
    accuracy = _accuracy(whole) if whole else None
    if whole:
        write_scores(run.scores / "val.jsonl", whole)
    told = [
        {"name": member.name, "weight": weight, "accuracy": _accuracy(own)}
        for member, weight, own in zip(members, weights, scored or [[]] * len(members), strict=True)
    ]
    _record(run, kind, told, accuracy=accuracy, rule=rule)
    return {"run_id": run.run_id, "model": str(run.model), "how": kind, "members": told, "accuracy": accuracy}


def _reference(model: str) -> str:
    """A run's id where it is one, else the folder's full path."""
    folder = locate(model)
    if (folder.parent / "status.json").is_file():
        return folder.parent.name if not Path(model).exists() else str(folder)
    return str(folder)


def _validation(members: Sequence[Member], *, needed: bool) -> list[list[ScoredGroup]]:
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


def _routes(named: Sequence[str], *, models: Sequence[str], text: Sequence[str]) -> dict[str, tuple[int, ...]]:
    if not text:
        return {}
    return {
        "text": tuple(named.index(each) for each in dict.fromkeys(text)),
        "image": tuple(named.index(each) for each in dict.fromkeys(models)),
    }


def _rule(
    kind: Kind,
    members: Sequence[Member],
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    pairs: int,
    seed: int,
    k: float,
    routes: dict[str, tuple[int, ...]],
) -> tuple[Rule, list[float | None]]:
    """The rule, and every member's weight where it has one."""
    count = len(members)
    options: dict[str, Any] = {"members": count, "k": k, **routes}
    if kind in WEIGHTED:
        margins = _margins(scored, pairs=pairs, seed=seed)
        intervals: tuple[tuple[float, float], ...] = ()
        if kind == "accuracy":
            weights = shares((margins > 0).mean(1).tolist())
        elif kind == "confidence":
            weights = shares(margins.mean(1).tolist())
        else:
            weights, intervals = logistic_weights(margins, seed=seed)
        return Rule("weighted", weights=weights, intervals=intervals, **options), list(weights)
    if kind == "standardised":
        cards = [read_card(member.folder)["scores"] for member in members]
        for member, card in zip(members, cards, strict=True):
            if not card:
                raise ModelError(
                    f"member '{member.name}' does not know the spread of its scores on validation data, which "
                    "standardising needs; take how=mean"
                )
        means, deviations = tuple(card["mean"] for card in cards), tuple(card["std"] for card in cards)
        return Rule("standardised", means=means, deviations=deviations, **options), [None] * count
    assert kind in ("mean", "worst", "pessimistic")
    return Rule(kind, **options), [1 / count if kind == "mean" else None] * count


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


def _combined(scored: Sequence[Sequence[ScoredGroup]], rule: Rule) -> list[ScoredGroup]:
    """The validation groups with the ensemble's scores. Which have pictures is not kept with them, so that with routes
    there are none."""
    if rule.text or rule.image:
        return []
    return [
        dataclasses.replace(same[0], scores=rule.combine(np.array([group.scores for group in same])).tolist())
        for same in zip(*scored, strict=True)
    ]


def _accuracy(groups: Sequence[ScoredGroup]) -> float | None:
    margins = [margin for group in groups for margin in group.margins]
    return sum(margin > 0 for margin in margins) / len(margins) if margins else None


def _create(name: str, members: Sequence[Member], kind: str) -> RunFolder:
    told = f'name: {name}\nsummary: "{kind} of {", ".join(member.name for member in members)}"\n'
    return RunFolder.create(told, recipe_sha256=hashlib.sha256(told.encode()).hexdigest(), name=name, kind="ensemble")


def _make_soup(members: Sequence[Member], *, name: str | None, text: Sequence[str]) -> dict[str, Any]:
    if text:
        raise ModelError("a soup is one model; it has no members for text alone")
    run = _create(name or "ensemble-soup", members, "soup")
    soup(members, run.model)
    told = [{"name": member.name, "weight": 1 / len(members), "accuracy": None} for member in members]
    _record(run, "soup", told, accuracy=None, rule=None)
    return {"run_id": run.run_id, "model": str(run.model), "how": "soup", "members": told, "accuracy": None}


def _record(
    run: RunFolder, kind: str, members: Sequence[Mapping[str, Any]], *, accuracy: float | None, rule: Rule | None
) -> None:
    """Tells MLflow; a server that will not take it costs the record, not the ensemble."""
    tracker = Tracker(run)
    try:
        tracker.start(experiment="ensembles", name=run.name, tags={"basereward.ensemble": kind})
    except RunError as error:
        logger.warning("the ensemble %s is not in MLflow: %s", run.run_id, error)
    else:
        tracker.params({"how": kind, "members": [dict(member) for member in members]})
        if rule is not None:
            tracker.params({"rule": rule.as_dict()})
        if accuracy is not None:
            tracker.metrics({"val/pair_accuracy": accuracy}, step=0)
        tracker.artifacts(run.model, folder="model")
    run.mark("finished")
    tracker.finish("finished")
