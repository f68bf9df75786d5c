"""The training format of InternLM-XComposer2.5-Reward: two conversations, `conversations_a` the better one.

https://github.com/InternLM/InternLM-XComposer/tree/main/InternLM-XComposer-2.5-Reward/training
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format


def _conversations(row: Cells) -> dict[str, Any]:
    return {"chosen": row["conversations_a"], "rejected": row["conversations_b"]}


CONVERSATIONS = Format(
    "ixc_reward",
    "InternLM-XComposer2.5-Reward",
    ("conversations_a", "conversations_b"),
    convert=_conversations,
    note="`conversations_a` is the better one",
    example={
        "conversations_a": [{"from": "human", "value": "2 + 2?"}, {"from": "bot", "value": "4"}],
        "conversations_b": [{"from": "human", "value": "2 + 2?"}, {"from": "bot", "value": "5"}],
    },
)
