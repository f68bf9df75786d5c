"""Recognises the format of a row by its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.formats import (
    Format,
    alpaca_farm,
    argilla,
    context_pairs,
    ixc_reward,
    llama_factory,
    mllm_judge,
    ms_swift,
    nemo_rl,
    one_response,
    openai_preference,
    published,
    trl,
)
from basereward.data.python_text import parse_python
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.rejections import RowRejected

FORMATS: tuple[Format, ...] = (
    # A row with `prompt`, `chosen` and `rejected` is complete; other columns beside them are not read.
    trl.EXPLICIT,
    trl.GENERAL,
    openai_preference.PREFERENCE,
    nemo_rl.RANKED,
    ms_swift.REJECTED_RESPONSE,
    ms_swift.REJECTED_MESSAGES,
    ms_swift.QUERY,
    llama_factory.SHAREGPT,
    llama_factory.MESSAGES,
    llama_factory.ALPACA,
    llama_factory.ALPACA_OUTPUTS,
    context_pairs.COLOSSAL_CHAT,
    context_pairs.TURBO_ALIGNMENT,
    mllm_judge.PAIR,
    mllm_judge.BATCH,
    argilla.RESPONSES,
    argilla.GENERATIONS,
    argilla.ULTRA_FEEDBACK,
    alpaca_farm.PREFERENCE,
    ixc_reward.CONVERSATIONS,
    published.RLAIF_V,
    published.POVID,
    published.SHP,
    published.HELPSTEER3,
    published.PKU,
    published.ARENA,
    one_response.STEPS,
    one_response.COMPLETION,
    one_response.RESPONSE,
    one_response.QUERY,
    one_response.OUTPUT,
    one_response.MESSAGES,
    one_response.CONVERSATIONS,
    # Two columns alone come last, since the formats above have them too.
    trl.TRANSCRIPTS,
    trl.IMPLICIT_MESSAGES,
    trl.IMPLICIT_TEXTS,
)
"""All formats. The first one that fits a row is its format."""

# Columns of the prompt, one of which a row with an implicit prompt must not have.
_PROMPTS = ("question", "query", "problem", "post", "text", "user_input", "promt")
# Columns that contain lists or objects. In CSV files they are JSON text.
_STRUCTURED = (
    "answer1", "answer2", "answer_losing", "answer_winning", "answers", "completions", "context", "conversation_a",
    "conversation_b", "conversations", "conversations_a", "conversations_b", "generations", "messages",
    "non_preferred_output", "output", "preferred_output", "ratings", "rejected_conversations", "rejected_messages",
)  # fmt: skip


def recognise(row: Mapping[str, Any]) -> Format | None:
    """Return the format of a row; None if it has no known one.

    >>> row = {"messages": [{"role": "user", "content": "Hi"}], "rejected_response": "Go away."}
    >>> recognise(row).project, recognise({"text": "Hi"})
    ('ms-swift', None)
    """
    for form in FORMATS:
        if form.fits(row):
            if form is trl.IMPLICIT_TEXTS and any(row.get(name) is not None for name in _PROMPTS):
                # The column is probably the prompt; the fault of the row proposes to map it.
                return None
            return form
    return None


def with_structure(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parse the cells of a row that contain a list or an object as text, as CSV files do.

    >>> with_structure({"messages": '[{"role": "user", "content": "Hi"}]', "chosen": "[1]"})["messages"]
    [{'role': 'user', 'content': 'Hi'}]
    """
    parsed: dict[str, Any] = {}
    names = (*_STRUCTURED, "input") if "preferred_output" in row else _STRUCTURED
    for name in names:
        cell = row.get(name)
        if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
            value = _parsed(cell.strip())
            if isinstance(value, list | dict):
                parsed[name] = value
    return {**row, **parsed} if parsed else row


def _parsed(text: str) -> object:
    try:
        return decode_json(text)
    except RowRejected:
        return parse_python(text)


def format_table() -> str:
    """Return the table of all formats in Markdown, for the documentation.

    >>> format_table().splitlines()[2]
    '| TRL, OpenRLHF, XTuner | `prompt`, `chosen`, `rejected` | texts or messages; `margin`, ratings and `images` ... |'
    """
    lines = ["| project | columns | how it is read |", "|---|---|---|"]
    for form in FORMATS:
        columns = ", ".join(f"`{name}`" for name in form.columns)
        lines.append(f"| {form.project} | {columns} | {form.note} |")
    return "\n".join(lines)
