"""The settings of policy objectives, StableReinforce and its baselines, and the constants that were published."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from basereward.errors import RecipeError, unknown
from basereward.rl.advantages import FilterVariant
from basereward.rl.log_ratios import BOUNDS, RatioBounds

AdvantageBaseline: TypeAlias = Literal["batch", "group"]
FILTERS: tuple[FilterVariant, ...] = ("paper", "code", "off")


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """How rewards of rollouts become the loss of a policy.

    Attributes:
        name: of the objective.
        baseline: `batch`: returns of tokens are standardised over all tokens of all ranks; `group`: rewards are
            standardised over the rollouts of their prompt.
        kl: where the penalty for leaving the reference model is: k1 in the `reward` of a token, or k3 in the `loss`.
        beta: weight of the penalty; 0: none.
        clip: how far the ratio of probabilities may leave 1.
        ratio_bounds: of the pre-clip, before the exponential; None: no pre-clip.
        filter: see `basereward.rl.advantages.kept`; it needs the baseline `batch`.

    Raises:
        RecipeError: a number is out of range, or two settings do not go together.

    >>> PolicyObjective("mine", baseline="group", kl="loss", beta=0.04).filter
    'off'
    """

    name: str
    baseline: AdvantageBaseline
    kl: Literal["reward", "loss"]
    beta: float = 0.0
    clip: float = 0.2
    ratio_bounds: RatioBounds | None = None
    filter: FilterVariant = "off"

    def __post_init__(self) -> None:
        if not (0 <= self.beta < math.inf and 0 < self.clip < 1):
            raise RecipeError(
                f"objective {self.name}: beta={self.beta} must be at least 0 and finite, and clip={self.clip} above 0 "
                "and below 1"
            )
        if self.ratio_bounds is not None and not 0 < self.ratio_bounds[0] < 1 < self.ratio_bounds[1] < math.inf:
            raise RecipeError(
                f"objective {self.name}: ratio_bounds={self.ratio_bounds}; needed: the smallest ratio above 0 and "
                f"below 1, and the largest above 1, such as {BOUNDS}"
            )
        if self.filter not in FILTERS:
            raise RecipeError(unknown("filter", self.filter, FILTERS))
        self._check_combination()

    def _check_combination(self) -> None:
        if self.baseline == "group" and self.filter != "off":
            raise RecipeError(
                f"objective {self.name}: filter={self.filter} limits advantages in standard deviations of the batch, "
                "and baseline=group has others. Set filter=off, or baseline=batch"
            )
        if self.baseline == "group" and self.kl == "reward" and self.beta:
            raise RecipeError(
                f"objective {self.name}: baseline=group has one advantage for all tokens of a rollout, so the penalty "
                "beta cannot be in the reward of each token. Set beta=0, or baseline=batch"
            )
        if self.kl == "loss" and self.beta and self.ratio_bounds is not None:
            # The loss would read the limited log-probabilities, and the penalty end where it matters most.
            raise RecipeError(
                f"objective {self.name}: a pre-clip and a KL penalty in the loss do not go together. Set kl=reward, or "
                "ratio_bounds=None"
            )


def stable_reinforce(
    *,
    beta: float = 0.0,
    clip: float = 0.2,
    ratio_bounds: RatioBounds | None = BOUNDS,
    filter: FilterVariant = "paper",
    baseline: AdvantageBaseline = "batch",
) -> PolicyObjective:
    """StableReinforce of R1-Reward (arXiv 2505.02835): REINFORCE++ with the pre-clip and the advantage filter.

    Args:
        beta: see `PolicyObjective`; so are the others.
        clip: how far the ratio may leave 1.
        ratio_bounds: of the pre-clip.
        filter: `paper`, `code` as released, or `off`.
        baseline: `batch` as in the paper.

    >>> stable_reinforce(filter="code").ratio_bounds
    (0.001, 1000.0)
    """
    return PolicyObjective("stable_reinforce", baseline, "reward", beta, clip, ratio_bounds, filter)


def reinforce_pp(*, beta: float = 0.0, clip: float = 0.2) -> PolicyObjective:
    """REINFORCE++: returns with a penalty per token, standardised over the batch, and the clipped surrogate.

    >>> reinforce_pp(beta=1e-3).ratio_bounds is None
    True
    """
    return PolicyObjective("reinforce_pp", "batch", "reward", beta, clip)


def grpo(*, beta: float = 0.0, clip: float = 0.2) -> PolicyObjective:
    """GRPO: rewards standardised over the rollouts of their prompt, and the penalty in the loss.

    >>> grpo(beta=0.04).kl
    'loss'
    """
    return PolicyObjective("grpo", "group", "loss", beta, clip)


@dataclass(frozen=True, slots=True)
class TrainingConstants:
    """What R1-Reward trained with.

    Attributes:
        learning_rate: the largest; it falls to `final_share` of itself along a cosine.
        beta: weight of the KL penalty.
        epochs: passes over the rows.
        rollouts: written before each update of the policy that writes.
        batch: rollouts of an optimizer step; every rollout is used once.
        max_tokens: limit of a rollout.
        temperature, top_p: of sampling.
        adam: the betas of Adam.
        weight_decay: of Adam.
        warmup: share of the steps in which the learning rate rises.
        final_share: of the learning rate at the end.
        gradient_norm: the largest norm of the gradient.

    >>> CONSTANTS["paper"].rollouts // CONSTANTS["paper"].batch  # optimizer steps for each set of rollouts
    2
    """

    learning_rate: float
    beta: float
    epochs: int
    rollouts: int = 256
    batch: int = 128
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    adam: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: float = 0.03
    final_share: float = 0.1
    gradient_norm: float = 1.0


CONSTANTS: Mapping[str, TrainingConstants] = MappingProxyType(
    {
        "paper": TrainingConstants(learning_rate=1e-6, beta=0.0, epochs=5),
        # The script that was released with the paper differs from its text.
        "released": TrainingConstants(learning_rate=3e-7, beta=1e-3, epochs=1),
    }
)
