"""Anthropic/hh-rlhf: two transcripts of a dialogue between a human and an assistant (arXiv 2204.05862)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# Two line breaks, because an answer may contain "Human:" itself.
SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


class HhRlhf:
    """Splits the transcripts `chosen` and `rejected` at "\\n\\nHuman: " and "\\n\\nAssistant: ".

    The turns before the last answer are the prompt. If the two transcripts differ before the last answer, they are not
    two answers to one prompt, and the row is rejected with the reason `prompts_differ`.

    >>> start = "\\n\\nHuman: Hi\\n\\nAssistant:"
    >>> pair = HhRlhf()({"chosen": f"{start} Hello!", "rejected": f"{start} Go away."})
    >>> pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]
    ('Hello!', 'Go away.')
    """

    columns: tuple[str, ...] = ("chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `null_response`; `bad_transcript`; `prompts_differ`.
        """
        chosen, rejected = (read_transcript(row[name], column=name) for name in self.columns)
        if chosen[:-1] != rejected[:-1]:
            common = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False))
            raise RowRejected(
                "prompts_differ",
                f"transcripts of {len(chosen)} and {len(rejected)} turns differ after turn {len(list(common))}, "
                "before the last answer",
            )
        return {"chosen": chosen, "rejected": rejected}


def read_transcript(text: object, *, column: str) -> list[dict[str, str]]:
    """Split a transcript into chat messages.

    Raises:
        RowRejected: `null_response`; `bad_transcript` (it does not begin with a speaker).

    >>> read_transcript("\\n\\nHuman: Hi\\n\\nAssistant: Hello!", column="chosen")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello!'}]
    """
    if text is None:
        raise RowRejected("null_response", f"`{column}` is null; a transcript is needed")
    if not isinstance(text, str) or not SPEAKER.match(text):
        raise RowRejected(
            "bad_transcript", f"`{column}` is {shown(text)}; a text that begins with \\n\\nHuman: is needed"
        )
    # The pattern has a capture group, so `split` returns an empty text and then speaker, content, speaker, content, ...
    _, *pieces = SPEAKER.split(text)
    return [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
