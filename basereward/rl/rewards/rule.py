"""The reward of a rule: 1 for an exact match with a reference answer, else 0."""

from __future__ import annotations

from collections.abc import Sequence

from basereward.rl.rewards.contracts import PolicyReward, ScoredPrompt


class RuleReward(PolicyReward):
    """1 if a text is a reference answer, else 0 (BaseReward, arXiv 2509.16127, Table 11).

    What counts as equal is said by `basereward.rl.exact_match.normalised`.

    >>> from basereward.data.schema.group import Group
    >>> prompt = ScoredPrompt(Group("a", "sums", (), ("4", "5")), right=(True, False), counts=(7, 1))
    >>> RuleReward().group_rewards([prompt])
    [[1.0, 0.0]]
    """

    __name__ = "rule"

    def group_rewards(self, prompts: Sequence[ScoredPrompt]) -> list[list[float | None]]:
        """1 or 0 for each text."""
        rewards: list[list[float | None]] = []
        for prompt in prompts:
            rewards.append([float(right) for right in prompt.right])
        return rewards
