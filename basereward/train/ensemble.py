"""An ensemble made of runs: `basereward ensemble`, and `ensembles` of an experiment."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basereward.errors import ModelError, RunError, unknown
from basereward.model.combining import Rule
from basereward.model.ensemble import Member, find_member, write_ensemble
from basereward.model.soup import soup
from basereward.recipe.schema import WAYS, EnsembleRecipe
from basereward.train.ensemble_test import run_test
from basereward.train.ensemble_weights import WEIGHTED, find_rule, validation_scores
from basereward.train.locate import locate
from basereward.train.runs import RunFolder
from basereward.train.scores import ScoredGroup, write_scores
from basereward.train.tracking import Tracker

logger = logging.getLogger(__name__)


def ensemble(
    models: Sequence[str],
    *,
    how: str = "mean",
    text: Sequence[str] = (),
    name: str | None = None,
    pairs: int = 1000,
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
    if how not in WAYS:
        raise ModelError(unknown("way to combine", how, WAYS))
    recipe: Any = {"how": how, "members": list(models), "text": list(text), "pairs": pairs, "k": k, "seed": seed}
    return make_ensemble(EnsembleRecipe(**recipe), name=name)


def make_ensemble(
    recipe: EnsembleRecipe,
    *,
    name: str | None = None,
    sha256: str | None = None,
    parent: str | None = None,
    tested: bool = False,
    tracking: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """The same, for models that `recipe` names.

    Args:
        sha256: what it is found again by.
        parent: the sweep that it belongs to.
        tested: whether it is tested on the members' test groups, as a run is.
        tracking: `uri` and `experiment` of its record.

    Returns:
        As `ensemble`; with `tested` also what a run returns: `metrics`, `pair_s`, `skipped`.
    """
    named = list(dict.fromkeys([*recipe.members, *recipe.text]))
    if len(named) < 2 or recipe.pairs < 1 or recipe.k < 0:
        raise ModelError(
            f"{len(named)} members, --pairs {recipe.pairs}, --k {recipe.k:g}: two members, one pair and 0 are the least"
        )
    if recipe.how == "soup" and recipe.text:
        raise ModelError("a soup is one model; it has no members for text alone")
    members = [find_member(_reference(each), locate(each)) for each in named]
    scored = validation_scores(members, needed=recipe.how in WEIGHTED)
    rule: Rule | None = None
    weights: list[float | None] = [1 / len(members)] * len(members)
    if recipe.how != "soup":
        rule, weights = find_rule(recipe, members, scored, routes=_routes(named, recipe))
    run = _create(name or f"ensemble-{recipe.how}", members, recipe.how, sha256=sha256, parent=parent)
    try:
        return _made(run, recipe, members, rule, weights, scored, tested=tested, tracking=tracking or {})
    except BaseException as error:
        run.give_up("failed" if isinstance(error, Exception) else "killed", error)
        raise


def _made(
    run: RunFolder,
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    rule: Rule | None,
    weights: Sequence[float | None],
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    tested: bool,
    tracking: Mapping[str, str | None],
) -> dict[str, Any]:
    whole: list[ScoredGroup] = []
    if rule is None:
        soup(members, run.model)
    else:
        write_ensemble(run.model, names=[m.name for m in members], digests=[m.digest for m in members], rule=rule)
        whole = _combined(scored, rule) if scored else []
        if whole:
            write_scores(run.scores / "val.jsonl", whole)
    told = [
        {"name": member.name, "weight": weight, "accuracy": _accuracy(own)}
        for member, weight, own in zip(members, weights, scored or [[]] * len(members), strict=True)
    ]
    found = {"how": recipe.how, "members": told, "accuracy": _accuracy(whole)}
    result = {"run_id": run.run_id, "model": str(run.model), **found}
    if tested:
        result |= run_test(run, members)
    run.write_result(result)
    _record(run, result, rule=rule, tracking=tracking)
    return result


def _reference(model: str) -> str:
    """A run's id where it is one, else the folder's full path."""
    folder = locate(model)
    if (folder.parent / "status.json").is_file():
        return folder.parent.name if not Path(model).exists() else str(folder)
    return str(folder)


def _routes(named: Sequence[str], recipe: EnsembleRecipe) -> dict[str, tuple[int, ...]]:
    if not recipe.text:
        return {}
    return {
        "text": tuple(named.index(each) for each in dict.fromkeys(recipe.text)),
        "image": tuple(named.index(each) for each in dict.fromkeys(recipe.members)),
    }


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


def _create(name: str, members: Sequence[Member], how: str, *, sha256: str | None, parent: str | None) -> RunFolder:
    told = f'name: {name}\nsummary: "{how} of {", ".join(member.name for member in members)}"\n'
    sha256 = sha256 or hashlib.sha256(told.encode()).hexdigest()
    return RunFolder.create(told, recipe_sha256=sha256, name=name, parent=parent, kind="ensemble")


def _record(
    run: RunFolder, result: Mapping[str, Any], *, rule: Rule | None, tracking: Mapping[str, str | None]
) -> None:
    """Tells MLflow; a server that will not take it costs the record, not the ensemble."""
    tracker = Tracker(run)
    place = {"experiment": tracking.get("experiment") or "ensembles", "uri": tracking.get("uri")}
    try:
        tracker.start(**place, name=run.name, tags={"basereward.ensemble": result["how"]})  # type: ignore[arg-type]
    except RunError as error:
        logger.warning("the ensemble %s is not in MLflow: %s", run.run_id, error)
    else:
        tracker.params({"how": result["how"], "members": result["members"]})
        if rule is not None:
            tracker.params({"rule": rule.as_dict()})
        if result["accuracy"] is not None:
            tracker.metrics({"val/pair_accuracy": result["accuracy"]}, step=0)
        tracker.metrics(result.get("metrics", {}), step=0)
        lost: Counter[str] = Counter()
        for reasons in result.get("skipped", {}).values():
            lost.update(reasons)
        tracker.metrics({f"data/skipped/{reason}": float(number) for reason, number in lost.items()}, step=0)
        if run.lost.exists():
            tracker.artifact(run.lost)
        for file in sorted(run.scores.glob("*.jsonl")):
            tracker.artifact(file, folder="scores")
        tracker.artifacts(run.model, folder="model")
    run.mark("finished")
    tracker.finish("finished")
