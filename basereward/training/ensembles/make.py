"""Makes an ensemble of trained models, for `basereward ensemble` and for `ensembles` of an experiment."""

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
from basereward.runs.resolve_model import MODEL, resolve_model
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
    """Make an ensemble of trained models, as a run of its own.

    Args:
        models: two or more different models, as `load` opens them. They score prompts with images, and without `text`
            all prompts.
        how: the aggregation. `mean` of raw scores; `accuracy` or `confidence` (mean margin), weights from validation
            pairs as in Table 7 of BaseReward (arXiv 2509.16127); `learned`, weights by logistic regression;
            `standardised`; `worst`; `pessimistic`, with `k`; or `soup`, one model whose weights are the mean of the
            members' weights.
        text: models that score prompts without images; among `models` or further ones.
        name: display name of the run.
        pairs: validation pairs from which weights are computed: equally many of each source, and at least one.
        k: see `Rule`.
        seed: of the sample of pairs, and of the bootstrap of learned weights.

    Returns:
        `run_id`, `model`, `how`, `members`, and `accuracy` of the ensemble on the validation pairs, None without common
        validation scores. Of each member: `name`; `accuracy` on these pairs; `weight` for prompts with images and
        `text_weight` for prompts without (0 when it does not score them, None when `how` has no weights); and
        `interval` and `text_interval`, the 95 % intervals [low, high] of learned weights.

    Raises:
        ModelError: a member is missing, is no model, or is named twice; it has no validation scores where they are
            needed, or has other pairs than the first member; or a number is out of range. The message names the member.
    """
    if name is not None:
        check_name(name, what="--name", slashes=True)
    deliver_pending()
    for argument, names in (("models", models), ("text", text)):
        check_several(names, name=argument, of="models", error=ModelError)
    # `Any`, because `how` comes from the command line as text; `make_ensemble` checks it.
    settings: Any = {"how": how, "members": list(models), "text": list(text), "pairs": pairs, "k": k, "seed": seed}
    return make_ensemble(EnsembleRecipe(**settings), name=name)


def make_ensemble(
    recipe: EnsembleRecipe,
    *,
    name: str | None = None,
    sha256: str | None = None,
    parent: str | None = None,
    tested: bool = False,
    tracking: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Make the ensemble of a recipe; see `ensemble`.

    Args:
        recipe: members and aggregation.
        name: display name of the run.
        sha256: hash by which a sweep finds the ensemble again; by default one of its name and members.
        parent: id of the sweep that it belongs to.
        tested: test it on the test groups of its members, as a run is tested.
        tracking: `uri` and `experiment` of its record.

    Returns:
        As `ensemble`; with `tested` also the fields of a run: `metrics`, `pair_s`, `skipped`.
    """
    if recipe.how not in WAYS:
        raise ModelError(unknown("aggregation", recipe.how, WAYS))
    if problems := number_problems(recipe):
        raise ModelError("; ".join(f"{key}: {message}" for key, message in problems))
    members, routes = _members(recipe)
    # The rule is computed before the run is created, so that members that do not fit leave no run.
    scored = validation_scores(members, needed=recipe.how in WEIGHTED)
    rule = find_rule(recipe, members, scored, routes=routes) if recipe.how != "soup" else None
    run = _create_run(name or f"ensemble-{recipe.how}", members, recipe.how, sha256=sha256, parent=parent)
    try:
        # A killed or failed ensemble is marked like a run, so that a sweep makes it again.
        return _build(run, recipe, members, rule, scored, tested=tested, tracking=tracking or {})
    except BaseException as error:
        run.give_up("failed" if isinstance(error, Exception) else "killed", error)
        raise


def _members(recipe: EnsembleRecipe) -> tuple[list[Member], dict[str, tuple[int, ...]]]:
    """The members, each model once, and the routes.

    Returns:
        The members, and for `image` and `text` the indices of the members that score such prompts; no routes when all
        members score all prompts.
    """
    members: list[Member] = []
    routes: dict[str, tuple[int, ...]] = {}
    for route, names in (("image", recipe.members), ("text", recipe.text)):
        indices: list[int] = []
        for name in names:
            index = _add_member(members, find_member(_reference(name), resolve_model(name)))
            if index in indices:
                raise ModelError(
                    f"'{name}' is the same model as '{members[index].name}' and would count twice; name each model once"
                )
            indices.append(index)
        routes[route] = tuple(indices)
    if len(members) < 2:
        names_given = ", ".join(member.name for member in members) or "none"
        raise ModelError(f"an ensemble needs two or more members; given: {names_given}")
    return members, routes if recipe.text else {}


def _add_member(members: list[Member], member: Member) -> int:
    """Return the index of a member, which is added when no other one has the same weights."""
    # By the hash of its files: one model may be named by its id and by its folder.
    for index, known in enumerate(members):
        if known.digest == member.digest:
            return index
    members.append(member)
    return len(members) - 1


def _build(
    run: RunFolder,
    recipe: EnsembleRecipe,
    members: Sequence[Member],
    rule: Rule | None,
    scored: Sequence[Sequence[ScoredGroup]],
    *,
    tested: bool,
    tracking: Mapping[str, str | None],
) -> dict[str, Any]:
    ensemble_scores: list[ScoredGroup] = []
    if rule is None:
        soup(members, run.model)
    else:
        names, digests = [member.name for member in members], [member.digest for member in members]
        write_ensemble(run.model, names=names, digests=digests, rule=rule)
        ensemble_scores = _combine_scores(scored, rule) if scored else []
        if ensemble_scores:
            write_scores(run.scores / "val.jsonl", ensemble_scores)
    member_rows = []
    for index, member in enumerate(members):
        accuracy = _accuracy(scored[index] if scored else [])
        weights = _weights(rule, index, num_members=len(members))
        member_rows.append({"name": member.name, "accuracy": accuracy, **weights})
    result = {
        "run_id": run.run_id,
        "model": str(run.model),
        "how": recipe.how,
        "members": member_rows,
        "accuracy": _accuracy(ensemble_scores),
    }
    if tested:
        result |= run_test(run, members)
    # Before the run is marked as finished: a sweep reads the result of every finished run.
    run.write_result(result)
    _record(run, result, rule=rule, tracking=tracking)
    return result


def _reference(model: str) -> str:
    """The name of a member: the id of its run, else the absolute path of its folder.

    An id stays valid when the folder of all runs is moved.
    """
    folder = resolve_model(model)
    if (folder.parent / "status.json").is_file():
        return folder.parent.name if not Path(model).exists() else str(folder)
    return str(folder)


def _weights(rule: Rule | None, index: int, *, num_members: int) -> dict[str, Any]:
    """Weights of a member's score for prompts with images and without, with their intervals.

    In a soup, which has no rule, they are the weights of its parameters.
    """
    if rule is None:
        share = 1 / num_members
        return {"weight": share, "interval": None, "text_weight": share, "text_interval": None}
    weights: dict[str, Any] = {}
    for prefix, images in (("", True), ("text_", False)):
        weights[f"{prefix}weight"] = rule.weights_of(images=images)[index]
        weights[f"{prefix}interval"] = rule.intervals_of(images=images)[index]
    return weights


def _combine_scores(scored: Sequence[Sequence[ScoredGroup]], rule: Rule) -> list[ScoredGroup]:
    """The validation groups with the scores of the ensemble.

    Score files do not record which prompts have images, so routed ensembles return [].
    """
    if rule.text or rule.image:
        return []
    combined = []
    # `same_group` is one group, as each member scored it.
    for same_group in zip(*scored, strict=True):
        member_scores = np.array([group.scores for group in same_group])
        combined.append(dataclasses.replace(same_group[0], scores=rule.combine(member_scores).tolist()))
    return combined


def _accuracy(groups: Sequence[ScoredGroup]) -> float | None:
    """The share of pairs that are ranked correctly; None without pairs."""
    margins: list[float] = []
    for group in groups:
        margins += group.margins
    return sum(margin > 0 for margin in margins) / len(margins) if margins else None


def _create_run(name: str, members: Sequence[Member], how: str, *, sha256: str | None, parent: str | None) -> RunFolder:
    recipe = f'name: {name}\nsummary: "{how} of {", ".join(member.name for member in members)}"\n'
    sha256 = sha256 or hashlib.sha256(recipe.encode()).hexdigest()
    return RunFolder.create(recipe, recipe_sha256=sha256, name=name, parent=parent, kind="ensemble")


def _record(
    run: RunFolder, result: Mapping[str, Any], *, rule: Rule | None, tracking: Mapping[str, str | None]
) -> None:
    """Record the ensemble. A server that rejects the record is no failure of the ensemble."""
    tracker = Tracker(run)
    try:
        try:
            tracker.start(
                experiment=tracking.get("experiment") or "ensembles",
                uri=tracking.get("uri"),
                name=run.name,
                tags={"basereward.ensemble": result["how"]},
            )
        # The model is made and saved by now; only its record is missing.
        except RunError as error:
            logger.warning("the ensemble %s is not recorded in MLflow: %s", run.run_id, error)
        _record_all(tracker, run, result, rule=rule)
        # The journal gets its end before the folder; see `Tracker.close`.
        tracker.close("finished")
        run.mark("finished")
    except BaseException as error:
        tracker.close("failed" if isinstance(error, Exception) else "killed")
        raise
    finally:
        tracker.finish()


def _record_all(tracker: Tracker, run: RunFolder, result: Mapping[str, Any], *, rule: Rule | None) -> None:
    tracker.model(MODEL, step=0)
    tracker.params({"how": result["how"], "members": result["members"]})
    if rule is not None:
        tracker.params({"rule": rule.as_dict()})
    if result["accuracy"] is not None:
        tracker.metrics({"val/pair_accuracy": result["accuracy"]}, step=0)
    tracker.metrics(result.get("metrics", {}), step=0, model=MODEL)
    tracker.metrics(skipped_metrics(result.get("skipped", {})), step=0)
    if run.rejections.exists():
        tracker.artifact(run.rejections)
    for file in sorted(run.scores.glob("*.jsonl")):
        tracker.artifact(file, folder="scores")
    tracker.model_files(MODEL, run.model, step=0)
