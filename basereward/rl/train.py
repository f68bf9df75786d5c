"""Trains a recipe by what its objective needs: Lightning, or TRL for objectives that learn from rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import Recipe

if TYPE_CHECKING:
    from basereward.training.preflight import Findings
    from basereward.training.probe_cache import ProbeCache


def train(
    recipe: Recipe,
    *,
    resume: str | None = None,
    parent: str | None = None,
    shared: ProbeCache | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
    quick: Findings | None = None,
) -> dict[str, Any]:
    """Train, test and save one model, and record the run.

    Args:
        recipe: a complete recipe.
        resume: id of a stopped run of the same recipe.
        parent: id of the sweep that the run belongs to.
        shared: data and backbone of earlier probes of this process.
        title: display name of a new run; by default the name of the recipe.
        axes: label of each axis of a sweep's cell, by the name of the axis.
        quick: what `check_quickly` has found for the recipe.

    Returns:
        As `basereward.training.fit.train` and `basereward.rl.run.train_policy`.

    Raises:
        BaseRewardError: as they do.

    >>> train(Recipe(), resume="no-such-run", parent="a-sweep")
    Traceback (most recent call last):
    basereward.errors.RunError: ...
    """
    options: dict[str, Any] = {"resume": resume, "parent": parent, "title": title, "axes": axes, "quick": quick}
    # Only probes share something.
    shares = {} if learns_from_rollouts(recipe.objective) else {"shared": shared}
    return trainer_of(recipe)(recipe, **options, **shares)


def trainer_of(recipe: Recipe) -> Callable[..., dict[str, Any]]:
    """Import what trains a recipe, which takes seconds: `fit.train` or `run.train_policy`.

    Args:
        recipe: whose objective decides.

    >>> trainer_of(Recipe()).__module__
    'basereward.training.fit'
    """
    # TRL is in an extra, and is not imported for other objectives.
    if learns_from_rollouts(recipe.objective):
        from basereward.rl.run import train_policy

        return train_policy
    from basereward.training.fit import train as train_by_lightning

    return train_by_lightning
