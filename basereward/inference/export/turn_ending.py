"""Tokenizers of exported models: the last token of a rendered conversation is the one that the head reads."""

from __future__ import annotations

import copy
from typing import Any

from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError

QUESTION, ANSWER = "basereward-question", "basereward-answer"


def exported_tokenizer(encoder: Encoder) -> Any:
    """A copy of the tokenizer with which texts end, and are padded, as a class of transformers needs it.

    The head reads the token that ends the answer's turn. Many templates write a line break after it, and transformers
    would read the state of the line break; the template of the copy leaves it out after the last turn. transformers
    finds the last token as the last that is not padding, so the two must differ.

    Raises:
        ModelError: the template ends a conversation otherwise, or the tokenizer has no token for padding.
    """
    tokenizer: Any = copy.deepcopy(encoder.tokenizer)
    in_parts = encoder.image_token_id is not None
    last = int(encoder.turn_end[-1])
    if _last_token(tokenizer, in_parts=in_parts) != last:
        tokenizer.chat_template = without_final_space(tokenizer.chat_template)
        if _last_token(tokenizer, in_parts=in_parts) != last:
            raise ModelError(
                "the chat template writes more than white space after the token that ends an answer, which is the one "
                "that the head reads; a class of transformers would read another one. Use `basereward serve`"
            )
    if tokenizer.pad_token_id in (None, last):
        tokenizer.pad_token = _padding_token(tokenizer, {last, encoder.image_token_id})
    return tokenizer


def without_final_space(template: str) -> str:
    """A chat template that leaves out white space at the end of a conversation, but not after a generation prompt.

    >>> import jinja2
    >>> closed = without_final_space("{% for m in messages %}{{ m }}<end>\\n{% endfor %}")
    >>> jinja2.Template(closed, keep_trailing_newline=True).render(messages=["a", "b"])
    'a<end>\\nb<end>'
    """
    return (
        "{%- set rendered_conversation -%}" + template + "{%- endset -%}"
        "{{- rendered_conversation if add_generation_prompt else rendered_conversation.rstrip() -}}"
    )


def _last_token(tokenizer: Any, *, in_parts: bool) -> int:
    """The last token of a question with an answer."""

    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if in_parts else text

    turns = [{"role": "user", "content": content(QUESTION)}, {"role": "assistant", "content": content(ANSWER)}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    return int(tokenizer(rendered, add_special_tokens=False)["input_ids"][-1])


def _padding_token(tokenizer: Any, used: set[int | None]) -> str:
    """A special token that is in no conversation that the template writes.

    Raises:
        ModelError: there is none.
    """
    used = used | {tokenizer.eos_token_id, tokenizer.bos_token_id}
    template = tokenizer.chat_template
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.special and number not in used and token.content not in template:
            return str(token.content)
    raise ModelError(
        "the tokenizer has no token for padding apart from the one that ends an answer, and transformers reads the "
        "score at the last token that is not padding. Add a pad_token to the tokenizer of the backbone, and train again"
    )
