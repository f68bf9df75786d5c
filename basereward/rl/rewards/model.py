"""The reward of a reward model: the sigmoid of its score, or the score on another scale."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Gt, Interval

from basereward.data.schema.group import Group
from basereward.data.schema.preferences import reference_answers
from basereward.errors import DataError
from basereward.inference.rewards.reward_scale import scaled
from basereward.inference.rewards.reward_source import RewardSource, open_source
from basereward.metrics.logistic import logistic_weights
from basereward.rl.rewards.contracts import PolicyReward, ScoredPrompt

logger = logging.getLogger(__name__)

RewardScale: TypeAlias = Literal["sigmoid", "raw", "standardised", "centred", "calibrated"]
# L2 penalty of the two weights of the calibration, in units of their spreads. It keeps them finite where scores
# separate right from wrong answers.
PENALTY = 1e-2


class ModelReward(PolicyReward):
    """The score r of a reward model, by default as sigma(r) (BaseReward, arXiv 2509.16127, Table 11).

    All rollouts of a prompt are one tree row: the prompt and its images are read once. Texts are scored as texts, so
    that the reward model may have another tokenizer than the policy. A text that the model cannot score, for example
    because it is too long, has no reward.

    A Bradley-Terry model learns only differences between scores: sigma(r) may be near 1 for wrong answers too.
    `centred` and `calibrated` shift the scores to where the sigmoid separates right from wrong answers.

    Args:
        model: a run, a folder or an ensemble, as in `basereward.load`, or the address of a server.
        scale: `sigmoid`: sigma(r); `raw`: r; `standardised`: (r - mean) / std, of the model's scores on validation
            data; `centred`: sigma(r - mean), with the same mean; `calibrated`: sigma(a r + b), with a and b from a
            logistic regression that tells right from wrong responses of training groups.
        clip: the largest absolute value of a reward; None: no limit.
        calibration_groups: the most groups that are scored for `calibrated`.
        device: of the model; None: the GPU if there is one.
        key: name of the environment variable with the key of a server.

    Raises:
        BaseRewardError: the model cannot be opened, or has no statistics that the scale needs.
    """

    __name__ = "model"

    def __init__(
        self,
        *,
        model: str,
        scale: RewardScale = "sigmoid",
        clip: Annotated[float, Gt(0)] | None = None,
        calibration_groups: Annotated[int, Interval(ge=10, le=100_000)] = 200,
        device: str | None = None,
        key: str | None = None,
    ) -> None:
        where = {"key": os.environ.get(key)} if key is not None else {"device": device}
        # NaN marks a text that cannot be scored; it becomes None here, and must not end the training.
        source = open_source(model, unscorable=math.nan, **where)
        self._set_up(source, model, scale=scale, clip=clip, calibration_groups=calibration_groups)

    def _set_up(
        self, source: RewardSource, name: str, *, scale: RewardScale, clip: float | None, calibration_groups: int
    ) -> None:
        super().__init__()
        self.source = source
        self.name = name
        self.scale = scale
        self.clip = clip
        self.calibration_groups = calibration_groups
        self.is_probability = scale in ("sigmoid", "centred", "calibrated") and clip is None
        # Of `calibrated`, known after `prepare`.
        self.slope, self.offset = 1.0, 0.0

    def prepare(self, groups: Sequence[Group], *, seed: int) -> None:
        """Scores a group of each kind, with and without images, and fits the calibration.

        Raises:
            DataError: the model cannot score prompts with images, or other prompts of the data; or it does not tell
                right from wrong responses.
        """
        for kind in (True, False):
            group = next((group for group in groups if bool(group.images) is kind), None)
            if group is not None:
                self._check(group)
        if self.scale in ("standardised", "centred"):
            # Reports a model without statistics now, and not after the first rollouts.
            scaled([0.0], "standardised", statistics=self.source.statistics)
        if self.scale == "calibrated":
            self.slope, self.offset = self._fit(groups, seed=seed)

    def _check(self, group: Group) -> None:
        try:
            self.source.check(group)
        except DataError as error:
            images = "with images" if group.images else "without images"
            raise DataError(
                f"the reward model '{self.name}' cannot score prompts {images}: {error}. Take a reward model that "
                "reads such prompts, or other data"
            ) from error

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """The scores on the scale; None for a text that the model cannot score."""
        scores = self.source.group_rewards([prompt.group for prompt in prompts])
        return [self._on_scale(of_prompt) for of_prompt in scores]

    def _on_scale(self, scores: Sequence[float]) -> list[float | None]:
        known = [score for score in scores if math.isfinite(score)]
        rewards = iter(self._scaled(known))
        return [next(rewards) if math.isfinite(score) else None for score in scores]

    def _scaled(self, scores: Sequence[float]) -> list[float]:
        statistics = self.source.statistics
        if self.scale == "centred":
            scores = [score - statistics["mean"] for score in scores]
        elif self.scale == "calibrated":
            scores = [self.slope * score + self.offset for score in scores]
        named: Literal["raw", "standardised", "sigmoid"] = "sigmoid"
        if self.scale in ("raw", "standardised"):
            named = "raw" if self.scale == "raw" else "standardised"
        return scaled(scores, named, statistics=statistics, clip=self.clip)

    def _fit(self, groups: Sequence[Group], *, seed: int) -> tuple[float, float]:
        """Slope and offset with which sigma(a r + b) is the probability that a response is right.

        Raises:
            DataError: there are no wrong responses, or right ones do not have the higher scores.
        """
        places = random.Random(f"calibration/{seed}").sample(range(len(groups)), len(groups))
        chosen = [groups[place] for place in places[: self.calibration_groups]]
        scores: list[float] = []
        labels: list[float] = []
        of_group: list[int] = []
        for place, (group, values) in enumerate(zip(chosen, self.source.group_rewards(chosen), strict=True)):
            for label, value in zip(_labels(group), values, strict=True):
                if label is not None and math.isfinite(value):
                    scores.append(value)
                    labels.append(label)
                    of_group.append(place)
        if len(set(labels)) < 2:
            raise DataError(
                f"the calibration of '{self.name}' needs right and wrong responses, and {len(chosen)} groups have one "
                "kind alone. Give groups with chosen and rejected responses, or take another scale"
            )
        signs = np.array(labels)
        (slope, offset), _ = logistic_weights(
            np.array([signs * np.array(scores), signs]), groups=of_group, penalty=PENALTY
        )
        if slope <= 0:
            raise DataError(
                f"the reward model '{self.name}' does not give right responses higher scores than wrong ones in "
                f"{len(chosen)} groups of the training data (slope {slope:.3g}), so a policy would learn to be wrong. "
                "Take another reward model"
            )
        logger.info("calibration of '%s': sigma(%.4g r + %.4g), by %d responses", self.name, slope, offset, len(scores))
        return slope, offset


def _labels(group: Group) -> list[float | None]:
    """For each response 1 if it is right, -1 if another one is preferred to it; None if no preference decides.

    >>> from basereward.data.schema.group import Preference
    >>> _labels(Group("a", "sums", (), ("4", "5", "6"), (Preference(0, 1),)))
    [1.0, -1.0, None]
    """
    answers = reference_answers(group)
    losers = {preference.loser for preference in group.preferences if not preference.tie}
    labels: list[float | None] = []
    for place, response in enumerate(group.responses):
        undecided = None if place not in losers else -1.0
        labels.append(1.0 if response in answers else undecided)
    return labels
