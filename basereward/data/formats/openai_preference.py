"""The preference format of OpenAI's fine-tuning API.

https://platform.openai.com/docs/guides/direct-preference-optimization
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.messages import is_empty, shown
from basereward.data.schema.rejections import RowRejected

# Keys of `input` that do not change the conversation.
SETTINGS = ("parallel_tool_calls",)


def _preference(row: Cells) -> dict[str, Any]:
    given = row["input"]
    if isinstance(given, list):
        messages = given
    elif isinstance(given, dict) and "messages" in given:
        messages = given["messages"]
        if not is_empty(given.get("tools")):
            raise RowRejected(
                "tools",
                f"`input.tools` is {shown(given['tools'])}; tools are not rendered into prompts: write them into the "
                "system message, or remove them",
            )
        rest = [key for key in given if key not in ("messages", "tools", *SETTINGS) and not is_empty(given[key])]
        if rest:
            raise RowRejected("unknown_key", f"`input` has the keys {', '.join(rest)}, which are not read; remove them")
    else:
        raise RowRejected("wrong_type", f'`input` is {shown(given)}; {{"messages": [...]}} is needed')
    return {"prompt": messages, "chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}


PREFERENCE = Format(
    "openai",
    "OpenAI fine-tuning",
    ("input", "preferred_output", "non_preferred_output"),
    convert=_preference,
    note="rows with tools are refused",
    example={
        "input": {"messages": [{"role": "user", "content": "2 + 2?"}]},
        "preferred_output": [{"role": "assistant", "content": "4"}],
        "non_preferred_output": [{"role": "assistant", "content": "5"}],
    },
)
