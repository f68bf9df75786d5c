"""Turns as a backbone's own chat template wants them, and the token that ends one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from basereward.data.schema.group import Turn
from basereward.errors import ModelError

SENTINEL = "basereward-response"


class Tokenizer(Protocol):
    """What is asked of a tokenizer: that of transformers' fast tokenizers."""

    chat_template: str | None
    eos_token_id: int | None
    pad_token_id: int | None

    @property
    def backend_tokenizer(self) -> Any: ...
    def __call__(self, text: str, **options: Any) -> Any: ...
    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


def messages(prompt: Sequence[Turn], *, in_parts: bool) -> list[dict[str, Any]]:
    """A prompt as the chat templates want it: content in parts for vision models, a string for text models."""
    if not in_parts:
        return [{"role": turn.role, "content": "".join(part.text or "" for part in turn.parts)} for turn in prompt]
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if part.is_image else {"type": "text", "text": part.text} for part in turn.parts
            ],
        }
        for turn in prompt
    ]


def end_of_turn(tokenizer: Tokenizer, after: str) -> int:
    """The token that the chat template puts after a response.

    Args:
        tokenizer: the backbone's own.
        after: what the template writes after a response.

    Raises:
        ModelError: it writes nothing there, and the tokenizer has no `eos_token`.
    """
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
