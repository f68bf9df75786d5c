"""Formats of LLaMA-Factory: `sharegpt`, `alpaca` and the messages of OpenAI.

https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.rejections import RowRejected


def _sharegpt(row: Cells) -> dict[str, Any]:
    return {"prompt": row["conversations"], "chosen": row["chosen"], "rejected": row["rejected"]}


def _messages(row: Cells) -> dict[str, Any]:
    return {"prompt": row["messages"], "chosen": row["chosen"], "rejected": row["rejected"]}


def _has_two_outputs(row: Cells) -> bool:
    return isinstance(row["output"], list)


def _two_outputs(row: Cells) -> dict[str, Any]:
    """Read the older form of `alpaca`, in which the first output is the better one."""
    outputs = row["output"]
    if len(outputs) != 2:
        raise RowRejected("wrong_type", f"`output` has {len(outputs)} texts; two are needed, the better one first")
    return {
        "instruction": row["instruction"],
        "input": row.get("input"),
        "history": row.get("history"),
        "chosen": outputs[0],
        "rejected": outputs[1],
    }


SHAREGPT = Format(
    "sharegpt",
    "LLaMA-Factory, sharegpt",
    ("conversations", "chosen", "rejected"),
    absent=("prompt",),
    convert=_sharegpt,
    note="`system` is the system turn; rows with `tools` are refused",
    example={
        "conversations": [{"from": "human", "value": "2 + 2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
)
MESSAGES = Format(
    "messages",
    "LLaMA-Factory, axolotl, messages",
    ("messages", "chosen", "rejected"),
    absent=("prompt", "conversations"),
    convert=_messages,
    example={
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "chosen": {"role": "assistant", "content": "4"},
        "rejected": {"role": "assistant", "content": "5"},
    },
)
ALPACA = Format(
    "alpaca",
    "LLaMA-Factory, alpaca",
    ("instruction", "chosen", "rejected"),
    absent=("prompt",),
    note="`input` is appended to the instruction; `system` and `history` are read too",
    example={"instruction": "Add.", "input": "2 and 2", "chosen": "4", "rejected": "5"},
)
ALPACA_OUTPUTS = Format(
    "alpaca_outputs",
    "LLaMA-Factory, alpaca, two outputs",
    ("instruction", "output"),
    absent=("chosen", "kto_tag"),
    matches=_has_two_outputs,
    convert=_two_outputs,
    note="the first output is the better one",
    example={"instruction": "Add.", "input": "2 and 2", "output": ["4", "5"]},
)
