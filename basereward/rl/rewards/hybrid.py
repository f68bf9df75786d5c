"""The hybrid reward: 1 for an exact match, and otherwise the probability that a reward model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Interval

from basereward.rl.rewards.contracts import ScoredPrompt
from basereward.rl.rewards.model import ModelReward


class HybridReward(ModelReward):
    """1 if a text is a reference answer, else sigma(r) (BaseReward, arXiv 2509.16127, Table 11).

    Args:
        model, calibration_groups, device, key: as for the reward `model`.
        scale: `sigmoid`, `centred` or `calibrated`: those between 0 and 1.

    Raises:
        BaseRewardError: as the reward `model`.
    """

    __name__ = "hybrid"

    def __init__(
        self,
        *,
        model: str,
        scale: Literal["sigmoid", "centred", "calibrated"] = "sigmoid",
        calibration_groups: Annotated[int, Interval(ge=10, le=100_000)] = 200,
        device: str | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(model=model, scale=scale, calibration_groups=calibration_groups, device=device, key=key)

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """1 for a text that is right, and for others as the reward `model`."""
        rewards: list[list[float | None]] = []
        for prompt, values in zip(prompts, super().group_rewards(prompts), strict=True):
            rewards.append([1.0 if right else value for right, value in zip(prompt.right, values, strict=True)])
        return rewards
