"""Converts turns to the messages of chat templates, and finds the end-of-turn token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from basereward.data.schema.group import Part, Turn
from basereward.errors import ModelError

SENTINEL = "basereward-response"
"""A text that stands for a response in sample renderings; no template contains it."""


class Tokenizer(Protocol):
    """The part of the interface of transformers' fast tokenizers that encoding uses."""

    chat_template: str | None
    eos_token_id: int | None
    pad_token_id: int | None

    @property
    def backend_tokenizer(self) -> Any:
        """The tokenizer of the `tokenizers` library, which transformers wraps."""
        ...

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode a text; `input_ids` of the result is a list of token ids."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render the messages of a conversation with `chat_template`."""
        ...


def messages(prompt: Sequence[Turn], *, in_parts: bool) -> list[dict[str, Any]]:
    """Convert turns to messages for a chat template.

    Args:
        prompt: the turns.
        in_parts: whether content is a list of parts, as for vision models, or a string.

    >>> from basereward.data.schema.group import IMAGE, Part
    >>> messages([Turn("user", (IMAGE, Part("Hi")))], in_parts=True)
    [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'Hi'}]}]
    """
    return [{"role": turn.role, "content": _content(turn, in_parts=in_parts)} for turn in prompt]


def _content(turn: Turn, *, in_parts: bool) -> str | list[dict[str, Any]]:
    if not in_parts:
        # Templates of text-only models concatenate the content with strings, so a list of parts would be an error.
        return "".join(part.text or "" for part in turn.parts)
    return [_part(part) for part in turn.parts]


def _part(part: Part) -> dict[str, Any]:
    if part.is_visual:
        return {"type": "video" if part.is_video else "image"}
    return {"type": "text", "text": part.text}


def end_of_turn(tokenizer: Tokenizer, after: str) -> int:
    """Find the token that ends a response.

    Args:
        tokenizer: the backbone's tokenizer.
        after: the text that the chat template writes after a response.

    Returns:
        The first token of this text, or `eos_token` if the text is empty.

    Raises:
        ModelError: the text is empty and the tokenizer has no `eos_token`.

    >>> from types import SimpleNamespace
    >>> end_of_turn(SimpleNamespace(eos_token_id=2), "")
    2
    """
    # Some templates write a space or a line break before the end-of-turn token, which is part of the closing text.
    after = after.lstrip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    if ids:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the backbone's chat template ends a response with nothing and its tokenizer has no eos_token: "
            "there is no token to read a score from. Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)
