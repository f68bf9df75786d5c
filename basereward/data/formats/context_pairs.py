"""Formats with the prompt in `context`: ColossalChat and turbo-alignment.

https://github.com/hpcaitech/ColossalAI/tree/main/applications/ColossalChat/examples
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format


def _colossal_chat(row: Cells) -> dict[str, Any]:
    return {"prompt": row["context"], "chosen": row["chosen"], "rejected": row["rejected"]}


def _is_context_of_messages(row: Cells) -> bool:
    # In other data sets `context` is a passage beside the question.
    return isinstance(row["context"], list)


def _turbo_alignment(row: Cells) -> dict[str, Any]:
    context = row["context"]
    return {
        "prompt": [_with_role(message) for message in context] if isinstance(context, list) else context,
        "chosen": [_with_role(row["answer_winning"])],
        "rejected": [_with_role(row["answer_losing"])],
    }


def _with_role(message: object) -> object:
    """Return a message in which the role `bot` is called `assistant`."""
    if isinstance(message, dict) and message.get("role") == "bot":
        return message | {"role": "assistant"}
    return message


COLOSSAL_CHAT = Format(
    "colossal_chat",
    "ColossalChat",
    ("context", "chosen", "rejected"),
    absent=("prompt",),
    matches=_is_context_of_messages,
    convert=_colossal_chat,
    note="messages of `from` and `content`",
    example={
        "context": [{"from": "human", "content": "2 + 2?"}],
        "chosen": [{"from": "assistant", "content": "4"}],
        "rejected": [{"from": "assistant", "content": "5"}],
    },
)
TURBO_ALIGNMENT = Format(
    "turbo_alignment",
    "turbo-alignment",
    ("context", "answer_winning", "answer_losing"),
    convert=_turbo_alignment,
    example={
        "context": [{"role": "user", "content": "2 + 2?"}],
        "answer_winning": {"role": "bot", "content": "4"},
        "answer_losing": {"role": "bot", "content": "5"},
    },
)
