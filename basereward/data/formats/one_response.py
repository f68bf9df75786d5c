"""Formats with one response in a row, of supervised fine-tuning and KTO: such rows are scored, but not trained on."""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

ADVICE = (
    "The row has one response and nothing to compare it with; join the rows of a prompt: "
    '{"prompt": ..., "responses": [...], "ratings": [1, 0]}'
)
NOTE = "one response: scored, not trained on"


def _completion(row: Cells) -> dict[str, Any]:
    return {"prompt": row["prompt"], "responses": [row["completion"]]}


def _response(row: Cells) -> dict[str, Any]:
    return {"prompt": row["prompt"], "responses": [row["response"]]}


def _query(row: Cells) -> dict[str, Any]:
    return {"prompt": row["query"], "history": row.get("history"), "responses": [row["response"]]}


def _output(row: Cells) -> dict[str, Any]:
    cells = {"instruction": row["instruction"], "input": row.get("input"), "history": row.get("history")}
    return {**cells, "responses": [row["output"]]}


def _messages(row: Cells) -> dict[str, Any]:
    return {"responses": [_conversation(row["messages"], column="messages")]}


def _conversations(row: Cells) -> dict[str, Any]:
    return {"responses": [_conversation(row["conversations"], column="conversations")]}


def _conversation(messages: object, *, column: str) -> object:
    if not isinstance(messages, list) or len(messages) < 2:
        detail = f"`{column}` is {shown(messages)}; a list of messages that ends with a response is needed"
        raise RowRejected("wrong_type", detail)
    return messages


def _is_text(row: Cells) -> bool:
    return isinstance(row["output"], str)


def _are_steps(row: Cells) -> bool:
    return isinstance(row["labels"], list)


def _refuse_steps(row: Cells) -> Cells:
    raise RowRejected(
        "no_preference",
        "the row has labels of single steps, for process reward models; a preference between whole responses is "
        'needed: {"prompt": ..., "chosen": ..., "rejected": ...}',
    )


_PREFERENCES = ("chosen", "rejected", "responses")

STEPS = Format(
    "trl_steps",
    "TRL, stepwise supervision",
    ("prompt", "completions", "labels"),
    matches=_are_steps,
    convert=_refuse_steps,
    note="refused: labels of single steps",
    example={"prompt": "2 + 2?", "completions": ["2 + 2", "4"], "labels": [True, True]},
)
COMPLETION = Format(
    "trl_completion",
    "TRL, prompt-completion and unpaired preference (KTO)",
    ("prompt", "completion"),
    absent=_PREFERENCES,
    convert=_completion,
    note=NOTE,
    example={"prompt": "2 + 2?", "completion": "4", "label": True},
)
RESPONSE = Format(
    "response",
    "OpenRLHF, HelpSteer2, one response",
    ("prompt", "response"),
    absent=_PREFERENCES,
    convert=_response,
    note=NOTE,
    example={"prompt": "2 + 2?", "response": "4"},
)
QUERY = Format(
    "query_response",
    "ms-swift, query and one response",
    ("query", "response"),
    absent=("rejected_response", *_PREFERENCES),
    convert=_query,
    note=NOTE,
    example={"query": "2 + 2?", "response": "4"},
)
OUTPUT = Format(
    "alpaca_output",
    "alpaca, one output (SFT, KTO)",
    ("instruction", "output"),
    absent=_PREFERENCES,
    matches=_is_text,
    convert=_output,
    note=NOTE,
    example={"instruction": "Add.", "input": "2 and 2", "output": "4", "kto_tag": True},
)
MESSAGES = Format(
    "messages_alone",
    "messages of one conversation (SFT, KTO)",
    ("messages",),
    absent=("prompt", "rejected_response", "rejected_messages", *_PREFERENCES),
    convert=_messages,
    note=NOTE,
    example={"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
)
CONVERSATIONS = Format(
    "conversations_alone",
    "ShareGPT, one conversation (SFT)",
    ("conversations",),
    absent=("prompt", "rejected_conversations", *_PREFERENCES),
    convert=_conversations,
    note=NOTE,
    example={"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
)
