"""Anthropic's hh-rlhf: two transcripts of a talk between a human and an assistant."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


class HhRlhf:
    """`chosen` and `rejected` are texts of turns, each after "\\n\\nHuman: " or "\\n\\nAssistant: ".

    The turns before the last answer are the prompt. Where the two talks part before that, they are different talks and
    not two answers to one prompt: such rows are lost, under `prompts_differ`.
    """

    columns: tuple[str, ...] = ("chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `bad_transcript`; `prompts_differ`.
        """
        chosen, rejected = (read_transcript(row[name], column=name) for name in self.columns)
        if chosen[:-1] != rejected[:-1]:
            same = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False))
            raise RowRejected(
                "prompts_differ",
                f"transcripts of {len(chosen)} and {len(rejected)} turns part after turn {len(list(same))}, "
                "before the last answer",
            )
        return {"chosen": chosen, "rejected": rejected}


def read_transcript(text: object, *, column: str) -> list[dict[str, str]]:
    """The messages of a transcript.

    >>> read_transcript("\\n\\nHuman: Hi\\n\\nAssistant: Hello!", column="chosen")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello!'}]

    Raises:
        RowRejected: `null_response`; `bad_transcript`: it does not begin with a speaker.
    """
    if text is None:
        raise RowRejected("null_response", f"`{column}` is null; a transcript is needed")
    if not isinstance(text, str) or not SPEAKER.match(text):
        raise RowRejected(
            "bad_transcript", f"`{column}` is {shown(text)}; a text that begins with \\n\\nHuman: is needed"
        )
    _, *pieces = SPEAKER.split(text)
    return [
        {"role": ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
