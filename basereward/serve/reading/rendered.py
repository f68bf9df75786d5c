"""Reads a conversation back from text that a chat template has rendered, as RL trainers send it.

OpenRLHF and verl send the reward model the decoded tokens of their policy, with the control tokens of its template. The
reward model has a template of its own, so the turns are read and rendered again. Known are ChatML (Qwen, InternVL,
SmolLM) and Llama 3. A text without control tokens is one user turn.
"""

from __future__ import annotations

import re

from basereward.errors import DataError

ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>")
"""Tokens that end a turn or a text in these templates."""
TURNS = (
    re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL),
    re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(?:<\|eot_id\|>|\Z)", re.DOTALL),
)
"""A turn of each template: its role and its text."""
BEGINS = ("<|begin_of_text|>",)
CONTROL = re.compile(r"<\|[a-z_]+\|>")


def strip_end(text: str) -> str:
    """A response without the tokens that end it.

    >>> strip_end("Blue.<|im_end|>\\n")
    'Blue.'
    """
    while True:
        shorter = text.rstrip("\n") if text.rstrip("\n").endswith(ENDS) else text
        for end in ENDS:
            shorter = shorter.removesuffix(end)
        if shorter == text:
            return text
        text = shorter


def parse_prompt(text: str) -> list[dict[str, str]]:
    """The turns of a rendered prompt, without the opening of the assistant's turn at its end.

    Raises:
        DataError: the text has control tokens of an unknown template.

    >>> parse_prompt("<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n")
    [{'role': 'user', 'content': 'Hi'}]
    >>> parse_prompt("2 + 2?")
    [{'role': 'user', 'content': '2 + 2?'}]
    """
    for begin in BEGINS:
        text = text.removeprefix(begin)
    for turn in TURNS:
        matches = list(turn.finditer(text))
        if not matches:
            continue
        if "".join(match[0] for match in matches) != text:
            raise DataError("the text between the turns of the prompt is of no known chat template; send messages")
        messages = [{"role": match[1], "content": match[2]} for match in matches]
        if messages[-1] == {"role": "assistant", "content": ""}:
            messages.pop()
        return messages
    if CONTROL.search(text):
        raise DataError(
            "the prompt has control tokens of an unknown chat template (known: ChatML, Llama 3); send messages instead"
        )
    return [{"role": "user", "content": text}]


def split_conversation(text: str) -> tuple[list[dict[str, str]], str]:
    """The prompt and the last response of a rendered conversation.

    Raises:
        DataError: it does not end with a turn of the assistant.

    >>> split_conversation("<|im_start|>user\\n2 + 2?<|im_end|>\\n<|im_start|>assistant\\n4<|im_end|>\\n")
    ([{'role': 'user', 'content': '2 + 2?'}], '4')
    """
    messages = parse_prompt(text)
    if messages[-1]["role"] != "assistant" or len(messages) == 1:
        raise DataError("the conversation does not end with a turn of the assistant, which is what is scored")
    return messages[:-1], strip_end(messages[-1]["content"])
