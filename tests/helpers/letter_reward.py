"""A reward that is different for different texts of a policy, for tests in which something must be learned."""

from __future__ import annotations

from collections.abc import Sequence

from basereward.rl.rewards.contracts import PolicyReward, ScoredPrompt


class LetterReward(PolicyReward):
    """The share of a text's characters that are letters of the first half of the alphabet."""

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """The share for each text."""
        rewards: list[list[float | None]] = []
        for prompt in prompts:
            texts = prompt.group.responses
            rewards.append([sum("a" <= letter <= "m" for letter in text) / max(len(text), 1) for text in texts])
        return rewards


class EqualReward(PolicyReward):
    """A reward that is the same for every text."""

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """0.5 for each text."""
        return [[0.5] * len(prompt.group.responses) for prompt in prompts]


class NoReward(PolicyReward):
    """A reward that knows no answer."""

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """None for each text."""
        return [[None] * len(prompt.group.responses) for prompt in prompts]
