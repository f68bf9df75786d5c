"""Formats of TRL, which OpenRLHF, axolotl, XTuner and reward-bench share, and our own general form.

https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from typing import Any

from basereward.data.adapters.text.hh_rlhf import SPEAKER, HhRlhf
from basereward.data.formats import Cells, Format
from basereward.data.schema.rejections import RowRejected

MIN_WORDS = 2


def _are_texts(row: Cells) -> bool:
    return isinstance(row["chosen"], str) and isinstance(row["rejected"], str)


def _are_transcripts(row: Cells) -> bool:
    return _are_texts(row) and SPEAKER.match(row["chosen"]) is not None


def _are_conversations(row: Cells) -> bool:
    return not _are_texts(row)


def _transcripts(row: Cells) -> dict[str, Any]:
    return HhRlhf()(row)


def split_prompt(row: Cells) -> dict[str, Any]:
    """Split the common beginning of two texts off as the prompt, at the last space before they differ.

    TRL's `extract_prompt` does the same, but also splits inside of a word.

    Raises:
        RowRejected: `no_prompt` (the texts do not begin with the same two words; one may be chance).

    >>> split_prompt({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    {'prompt': 'The sky is', 'chosen': ' blue.', 'rejected': ' black.'}
    """
    chosen, rejected = row["chosen"], row["rejected"]
    end = 0
    # Up to the last whitespace before they differ, which stays with the responses.
    for place, (letter, other) in enumerate(zip(chosen, rejected, strict=False)):
        if letter != other:
            break
        if letter.isspace():
            end = place
    prompt = chosen[:end]
    if len(prompt.split()) < MIN_WORDS:
        raise RowRejected(
            "no_prompt",
            "there is no prompt: no column 'prompt', and `chosen` and `rejected` do not begin with the same words. If "
            "another column has the prompt, map it: columns: {prompt: NAME}. "
            f"Columns found: {', '.join(map(str, row))}",
        )
    return {"prompt": prompt, "chosen": chosen[end:], "rejected": rejected[end:]}


_MESSAGES = {"chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
_REJECTED = {"rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}]}

EXPLICIT = Format(
    "trl",
    "TRL, OpenRLHF, XTuner",
    ("prompt", "chosen", "rejected"),
    note="texts or messages; `margin`, ratings and `images` are read too",
    example={"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
)
TRANSCRIPTS = Format(
    "transcripts",
    "Anthropic hh-rlhf",
    ("chosen", "rejected"),
    absent=("prompt",),
    matches=_are_transcripts,
    convert=_transcripts,
    note="texts with the speakers `Human:` and `Assistant:`",
    example={"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
)
IMPLICIT_MESSAGES = Format(
    "trl_implicit",
    "TRL, OpenRLHF, implicit prompt",
    ("chosen", "rejected"),
    matches=_are_conversations,
    note="the messages before the last one are the prompt",
    example={**_MESSAGES, **_REJECTED},
)
IMPLICIT_TEXTS = Format(
    "trl_implicit_text",
    "TRL, implicit prompt in texts",
    ("chosen", "rejected"),
    matches=_are_texts,
    convert=split_prompt,
    note="the words with which both texts begin are the prompt",
    example={"chosen": "The sky is blue.", "rejected": "The sky is green."},
)
GENERAL = Format(
    "general",
    "general form",
    ("responses",),
    note="with `prompt`, and `ranking`, `preferences` or `ratings`",
    example={"prompt": "2 + 2?", "responses": ["4", "5", "22"], "ranking": [0, 1, 2]},
)
