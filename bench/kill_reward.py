"""A reward with which a judge of random weights learns something in two steps; used by `bench.kills`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.rl.rewards.contracts import completion_text
from basereward.rl.rewards.verdict import JudgeReward


class LetterReward(JudgeReward):
    """The reward of a judge, and the share of its characters that are letters.

    A judge of random weights writes no verdicts: by the verdict alone all rewards would be 0, and its weights those of
    the start.

    >>> import asyncio
    >>> asyncio.run(LetterReward()([[]] * 2, ["ab1!", "<answer>1</answer>"], label=[1, 1]))
    [0.5, 1.6666666666666665]
    """

    def __init__(self) -> None:
        super().__init__(prompt=load_prompt("pairwise_brief", fields=PAIRWISE))

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **options: Any) -> list[float | None]:
        """One reward for each rollout; as of the base otherwise."""
        rewards = await super().__call__(prompts, completions, **options)
        sums: list[float | None] = []
        for reward, completion in zip(rewards, completions, strict=True):
            text = completion_text(completion)
            sums.append((reward or 0.0) + sum(map(str.isalpha, text)) / max(len(text), 1))
        return sums
