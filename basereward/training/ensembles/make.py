"""An ensemble made of runs: `basereward ensemble`, and `ensembles` of an experiment."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basereward.errors import ModelError, RunError, check_several, unknown
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Member, find_member, write_ensemble
from basereward.inference.soup import soup
from basereward.io.names import check_name
from basereward.recipe.checks.ensembles import number_problems
from basereward.recipe.schema import WAYS, EnsembleRecipe
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, write_scores
from basereward.runs.tracking.tracker import Tracker, deliver_pending, skipped_metrics
from basereward.training.ensembles.testing import run_test
from basereward.training.ensembles.weights import WEIGHTED, find_rule, validation_scores

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
        models: two or more different ones, as `load` opens them. They score prompts with pictures, and where `text`
            names none all.
        how: `mean` of raw scores; weights by validation `accuracy` or `confidence` (mean margin), as BaseReward's Table
            7 has them, or `learned` by logistic regression; `standardised`; `worst`; `pessimistic`, with `k`; or
            `soup`, one model whose weights are the members' mean.
        text: models that score prompts without pictures; among `models` or further ones.
        name: of the run.
        pairs: validation pairs that weights are made from, as many of each source and at least one.
        k: see `Rule`.
        seed: of the draw of pairs, and of the bootstrap of learned weights.

    Returns:
        `run_id`, `model`, `how`, `members`, `accuracy` of the whole on the validation pairs, None where there are no
        validation scores in common. Of each member `name`, `accuracy` on them, and what its score counts: `weight` of
        prompts with pictures and `text_weight` of those without (0 where it is not asked, None where `how` has no
        weights); `interval` and `text_interval` [low, high] of 95 %, of learned weights.

    Raises:
        ModelError: a member is missing, no model, named twice, or has no validation scores where they are needed, or
            others than the first; a number is out of its range. The message names the member.
    """
    if name is not None:
        check_name(name, what="--name", slashes=True)
    deliver_pending()
    if how not in WAYS:
        raise ModelError(unknown("way to combine", how, WAYS))
    check_several(models, name="models", of="models", error=ModelError)
    check_several(text, name="text", of="models", error=ModelError)
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
    if problems := number_problems(recipe):
        raise ModelError("; ".join(f"{key}: {message}" for key, message in problems))
    members, routes = _members(recipe)
    scored = validation_scores(members, needed=recipe.how in WEIGHTED)
    rule = find_rule(recipe, members, scored, routes=routes) if recipe.how != "soup" else None
    run = _create(name or f"ensemble-{recipe.how}", members, recipe.how, sha256=sha256, parent=parent)
    try:
        return _made(run, recipe, members, rule, scored, tested=tested, tracking=tracking or {})
    except BaseException as error:
        run.give_up("failed" if isinstance(error, Exception) else "killed", error)
        raise


def _members(recipe: EnsembleRecipe) -> tuple[list[Member], dict[str, tuple[int, ...]]]:
    """The members, each model once however it is named, and, where some are for text alone, which are for what."""
    members: list[Member] = []
    routes: dict[str, tuple[int, ...]] = {}
    for route, names in (("image", recipe.members), ("text", recipe.text)):
        places: list[int] = []
        for name in names:
            member = find_member(_reference(name), resolve_model(name))
            place = next((at for at, known in enumerate(members) if known.digest == member.digest), len(members))
            if place in places:
                raise ModelError(
                    f"'{name}' is the same model as '{members[place].name}' and would count twice; name each model once"
                )
            places.append(place)
            if place == len(members):
                members.append(member)
        routes[route] = tuple(places)
    if len(members) < 2:
        named = ", ".join(member.name for member in members) or "none"
        raise ModelError(f"an ensemble has two members or more; {named} is named")
    return members, routes if recipe.text else {}


def _made(
    run: RunFolder,
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    rule: Rule | None,
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
        {"name": member.name, "accuracy": _accuracy(own), **_weights(rule, place, count=len(members))}
        for place, (member, own) in enumerate(zip(members, scored or [[]] * len(members), strict=True))
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
    folder = resolve_model(model)
    if (folder.parent / "status.json").is_file():
        return folder.parent.name if not Path(model).exists() else str(folder)
    return str(folder)


def _weights(rule: Rule | None, place: int, *, count: int) -> dict[str, Any]:
    """What a member's score counts, with pictures and without; of a soup, what its weights do."""
    if rule is None:
        return {"weight": 1 / count, "interval": None, "text_weight": 1 / count, "text_interval": None}
    told: dict[str, Any] = {}
    for prefix, images in (("", True), ("text_", False)):
        told[f"{prefix}weight"] = rule.weights_of(images=images)[place]
        told[f"{prefix}interval"] = rule.intervals_of(images=images)[place]
    return told


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
        try:
            tracker.start(**place, name=run.name, tags={"basereward.ensemble": result["how"]})  # type: ignore[arg-type]
        except RunError as error:
            logger.warning("the ensemble %s is not in MLflow: %s", run.run_id, error)
        _record_all(tracker, run, result, rule=rule)
        tracker.close("finished")
        run.mark("finished")
    except BaseException as error:
        tracker.close("failed" if isinstance(error, Exception) else "killed")
        raise
    finally:
        tracker.finish()


def _record_all(tracker: Tracker, run: RunFolder, result: Mapping[str, Any], *, rule: Rule | None) -> None:
    tracker.params({"how": result["how"], "members": result["members"]})
    if rule is not None:
        tracker.params({"rule": rule.as_dict()})
    if result["accuracy"] is not None:
        tracker.metrics({"val/pair_accuracy": result["accuracy"]}, step=0)
    tracker.metrics(result.get("metrics", {}), step=0)
    tracker.metrics(skipped_metrics(result.get("skipped", {})), step=0)
    if run.lost.exists():
        tracker.artifact(run.lost)
    for file in sorted(run.scores.glob("*.jsonl")):
        tracker.artifact(file, folder="scores")
    tracker.artifacts(run.model, folder="model")
