"""The end-of-turn token is that of the chat template, for several kinds of templates."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from tests.helpers.support import group


def in_order(ids: Tensor, images_thw: Tensor | None) -> Tensor:
    """Return the positions 0, 1, 2, ..."""
    return torch.arange(len(ids))


def small_tokenizer(*special: str, template: str | None, eos: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the 256 bytes and the special tokens. The first special token begins every text, as with
    Llama."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if special:
        begin = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], len(alphabet))])
        fast.post_processor = begin
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=eos, chat_template=template)


LLAMA_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def test_end_of_turn_is_that_of_the_chat_template() -> None:
    """For a template like Llama 3's it is `<|eot_id|>`, although the tokenizer's eos token is another."""
    tokenizer = small_tokenizer(*LLAMA_TOKENS, template=LLAMA_TEMPLATE, eos="<|end_of_text|>")
    assert tokenizer("Hi")["input_ids"][0] == 256
    llama = Encoder(tokenizer, positions=in_order)
    assert llama.end_of_turn == tokenizer.convert_tokens_to_ids("<|eot_id|>") == 260
    encoded = llama(group("Hi", ("Yes",)))
    assert tokenizer.decode(encoded.prefix) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert tokenizer.decode(encoded.branches[0]) == "Yes<|eot_id|>"
    assert encoded.prefix.tolist().count(256) == 1, (
        "a beginning of text that the template has written is not added again"
    )


BARE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.mark.parametrize(("special", "eos"), [(["</s>"], "</s>"), ([], None)], ids=["eos", "no-eos"])
def test_template_without_an_end_of_turn_uses_the_eos(special: Sequence[str], eos: str | None) -> None:
    """If the template writes nothing after an answer, the eos token ends it; without one there is no token to read a
    score from."""
    tokenizer = small_tokenizer(*special, template=BARE, eos=eos)
    if eos is None:
        with pytest.raises(ModelError, match="no token to read a score from"):
            Encoder(tokenizer, positions=in_order)
    else:
        assert Encoder(tokenizer, positions=in_order).end_of_turn == 256


def test_tokenizer_without_a_chat_template_is_an_error() -> None:
    """No template is guessed: the error names the file to add."""
    with pytest.raises(ModelError, match=r"has no chat template.*chat_template\.jinja"):
        Encoder(small_tokenizer("</s>", template=None, eos="</s>"), positions=in_order)


def test_a_tokenizer_without_padding_pads_with_the_end_of_turn() -> None:
    """Padding is masked, so any token can be used."""
    tokenizer = small_tokenizer(*LLAMA_TOKENS, template=LLAMA_TEMPLATE, eos="<|end_of_text|>")
    assert Encoder(tokenizer, positions=in_order).pad_id == 260
