"""A tokenizer that needs no vocabulary file: the 256 bytes, and Qwen's special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Qwen's special tokens, in the order of their ids. Their own ids (from 151643) would need an embedding of 152k rows.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# Qwen's layout. Like Qwen3's it adds no system turn of its own: at one token a byte it would be a third of a prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ '\n' + message.content }}"
    "{%- else -%}{{ '\n' }}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>{{ '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\n' }}{%- endif -%}"
)


def byte_level_tokenizer(
    *, chat_template: str = CHAT_TEMPLATE, named_tokens: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes and Qwen's special tokens; it encodes any text without loss.

    Args:
        chat_template: a Jinja template.
        named_tokens: further special tokens by the names of the tokenizer's attributes that hold them.

    >>> byte_level_tokenizer().decode(byte_level_tokenizer()("7 > 4")["input_ids"])
    '7 > 4'
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = dict(named_tokens or {})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = [*SPECIAL_TOKENS, *named.values()]
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named or list(SPECIAL_TOKENS),
        chat_template=chat_template,
        model_max_length=32768,
    )
