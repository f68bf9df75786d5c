"""Test the tokenizers of exports: where a rendered conversation ends, and which token fills the rest of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from basereward.inference.export.turn_ending import exported_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = [{"role": "user", "content": "2 + 2?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "4"}]


def encoder_of(*special: str, template: str = CHATML, pad: str | None = None) -> Encoder:
    """Return an encoder whose tokenizer has the 256 bytes, the tokens of ChatML, and further special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokens = [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "<|im_end|>", *special)]
    fast.add_special_tokens(tokens)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token="<|im_end|>", pad_token=pad, chat_template=template
    )
    return Encoder(tokenizer, positions=lambda ids, _: torch.arange(len(ids)))


def test_conversation_ends_with_the_token_of_the_head() -> None:
    """The line break after the last turn goes, that after a generation prompt stays, and the original is as it was."""
    encoder = encoder_of("<|pad|>", pad="<|pad|>")
    tokenizer = exported_tokenizer(encoder)
    whole: str = encoder.tokenizer.apply_chat_template(ANSWERED, tokenize=False)
    assert whole.endswith("<|im_end|>\n")
    assert tokenizer.apply_chat_template(ANSWERED, tokenize=False) == whole.removesuffix("\n")
    prompt = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert tokenizer.pad_token == "<|pad|>"


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_padding_is_never_the_end_of_an_answer(pad: str | None) -> None:
    """Without a token for padding, or with that of the end, one that the template does not write takes its place."""
    assert exported_tokenizer(encoder_of("<|other|>", pad=pad)).pad_token == "<|other|>"


def test_tokenizer_without_a_free_token_is_refused() -> None:
    """All special tokens are in conversations."""
    with pytest.raises(ModelError, match="pad_token"):
        exported_tokenizer(encoder_of())


def test_template_that_writes_after_the_answer_is_refused() -> None:
    """More than white space follows the last turn."""
    template = CHATML.replace("{% endfor %}", "{% endfor %}{% if not add_generation_prompt %}<|bye|>{% endif %}")
    with pytest.raises(ModelError, match="white space"):
        exported_tokenizer(encoder_of("<|bye|>", "<|pad|>", template=template, pad="<|pad|>"))
