"""Signs in the metrics of a policy that its training collapses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Shares of the first value that was logged, below which entropy and length have collapsed.
ENTROPY_SHARE = 0.1
LENGTH_SHARE = 0.2
LENGTH_GROWTH = 4.0
TRUNCATED = 0.8
# Mean reward of wrong answers, as the probability that they are right.
OVERRATED = 0.9
EPS = 1e-8


@dataclass(slots=True)
class CollapseWatch:
    """Compares the metrics of a policy with those of its first step, and warns once of each sign.

    Attributes:
        first: the first values of entropy and length.
        warned: the names of the signs that were reported.

    >>> watch = CollapseWatch()
    >>> watch.observe({"entropy": 1.0, "completions/mean_length": 50.0, "reward_std": 0.5})
    []
    >>> list(watch.observe({"entropy": 0.01, "completions/mean_length": 50.0, "reward_std": 0.5}))[0][:7]
    'entropy'
    """

    first: dict[str, float] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    def observe(self, metrics: Mapping[str, float | None]) -> list[str]:
        """New signs, as messages.

        Args:
            metrics: of a step, by TRL's names and those of `JudgeTrainer`; what is missing is not judged.
        """
        messages: list[str] = []
        for name, message in self._signs(metrics).items():
            if name not in self.warned:
                self.warned.add(name)
                messages.append(message)
        return messages

    def _signs(self, metrics: Mapping[str, float | None]) -> dict[str, str]:
        signs: dict[str, str] = {}
        entropy = self._against_first("entropy", metrics)
        if entropy is not None and entropy < ENTROPY_SHARE:
            signs["entropy"] = (
                f"entropy is {entropy:.0%} of its first value: the policy writes the same tokens whatever it is asked. "
                "Lower the learning rate, or raise beta"
            )
        length = self._against_first("completions/mean_length", metrics)
        if length is not None and not LENGTH_SHARE <= length <= LENGTH_GROWTH:
            signs["length"] = f"the mean length of rollouts is {length:.2g} times its first value"
        if (metrics.get("completions/clipped_ratio") or 0.0) >= TRUNCATED:
            signs["truncated"] = (
                f"{metrics['completions/clipped_ratio']:.0%} of the rollouts reach the limit of tokens without an end, "
                "and have no verdict. Raise max_completion_length, or start from a judge that was trained on examples"
            )
        return signs | self._reward_signs(metrics)

    def _reward_signs(self, metrics: Mapping[str, float | None]) -> dict[str, str]:
        signs: dict[str, str] = {}
        spread = metrics.get("reward_std")
        if spread is not None and spread < EPS:
            signs["constant"] = "all rewards of a step are equal, so nothing is learned from it"
        if metrics.get("rewards/unscored"):
            signs["unscored"] = (
                f"{metrics['rewards/unscored']:.0%} of the rollouts have no finite reward; they get no advantage, and "
                "count in no mean"
            )
        overrated = metrics.get("policy/wrong_probability")
        if overrated is not None and overrated >= OVERRATED:
            signs["overrated"] = (
                f"the mean reward of wrong answers is {overrated:.2f} of at most 1, so right answers can earn little "
                "more. Calibrate the reward (objective.reward.scale=calibrated), center the scores of the reward model "
                "(loss.centring), or use an ensemble"
            )
        dropped = metrics.get("filter/dropped_wrong")
        if dropped is not None and dropped > 1 - EPS:
            signs["filter"] = (
                "the filter drops every wrong answer, so the policy learns from right ones only. The filter `code` "
                "does this once most answers are right, `paper` if few are wrong; `off` drops none"
            )
        return signs

    def _against_first(self, name: str, metrics: Mapping[str, float | None]) -> float | None:
        """The ratio of a metric to its first value."""
        value = metrics.get(name)
        if value is None:
            return None
        start = self.first.setdefault(name, value)
        return value / start if start > EPS else None
