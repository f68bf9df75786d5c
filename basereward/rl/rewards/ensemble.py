"""The reward of several reward models: the worst of their scores, or the mean less their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from basereward.errors import DataError, ModelError
from basereward.inference.aggregation import How, Rule
from basereward.inference.ensemble import Ensemble, Member, find_member
from basereward.inference.rewards.reward_source import LocalRewards
from basereward.model.saving.card import read_card
from basereward.rl.rewards.model import ModelReward
from basereward.runs.resolve_model import resolve_model


class EnsembleReward(ModelReward):
    """The score of an ensemble of reward models, by default as its sigmoid.

    A policy that optimises one reward model finds answers that this model alone overrates. Members disagree about them,
    and a pessimistic ensemble gives them less (arXiv 2310.02743).

    Args:
        models: runs or folders of two or more reward models. Members with equal backbones share a forward pass.
        how: `pessimistic`: the mean less `k` standard deviations of the members; `worst`: the lowest score; `mean`.
        k: for `pessimistic`.
        standardise: subtract the mean of each member's scores on validation data and divide by their deviation first.
            Without it, `worst` is the score of the member whose scores have the lowest origin.
        scale: as for the reward `model`, without `standardised` and `centred`: an ensemble has no statistics.
        clip, calibration_groups, device: as for the reward `model`.

    Raises:
        ModelError: a member cannot be opened, is named twice, or has no statistics.
        DataError: there are fewer than two models.
    """

    __name__ = "ensemble"

    def __init__(
        self,
        *,
        models: Sequence[str],
        how: Literal["pessimistic", "worst", "mean"] = "pessimistic",
        k: Annotated[float, Ge(0)] = 1.0,
        standardise: bool = True,
        scale: Literal["sigmoid", "raw", "calibrated"] = "sigmoid",
        clip: Annotated[float, Gt(0)] | None = None,
        calibration_groups: Annotated[int, Interval(ge=10, le=100_000)] = 200,
        device: str | None = None,
    ) -> None:
        if len(models) < 2:
            raise DataError(
                f"models={list(models)}: an ensemble has at least two members. Name several runs, or take the reward "
                "`model`"
            )
        members = [find_member(name, resolve_model(name)) for name in models]
        if len({member.digest for member in members}) < len(members):
            raise ModelError(f"models={list(models)}: a model is named twice and would count twice. Name each once")
        means, deviations = _statistics(members) if standardise else ((), ())
        named: How = "standardised" if standardise and how == "mean" else how
        rule = Rule(named, members=len(members), k=k, means=means, deviations=deviations)
        # NaN as in the reward `model`, whose constructor opens one model alone.
        source = LocalRewards(Ensemble(members, rule, device=device), unscorable=math.nan)
        name = ", ".join(models)
        self._set_up(source, name, scale=scale, clip=clip, calibration_groups=calibration_groups)


def _statistics(members: Sequence[Member]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each member's scores on validation data.

    Raises:
        ModelError: a member has none.
    """
    means: list[float] = []
    deviations: list[float] = []
    for member in members:
        scores = read_card(member.folder)["scores"]
        if not scores.get("std"):
            raise ModelError(
                f"member '{member.name}' was saved without mean and spread of its scores. Set standardise: false"
            )
        means.append(scores["mean"])
        deviations.append(scores["std"])
    return tuple(means), tuple(deviations)
