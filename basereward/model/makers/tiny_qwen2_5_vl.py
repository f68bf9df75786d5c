"""A Qwen2.5-VL small enough for two CPU cores, written in the hub's on-disk format.

The folder holds what the hub's `Qwen/Qwen2.5-VL-7B-Instruct` holds (config, safetensors, tokenizer, chat template,
image processor), so the code that loads the one loads the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

# Qwen's special tokens, in the order of their ids.
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"),
    *("<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# Qwen's layout. Like Qwen3's it adds no system turn of its own, which at one token a byte would be a third of a prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ '\n' + message.content }}"
    "{%- else -%}{{ '\n' }}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>{{ '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\n' }}{%- endif -%}"
)


def tiny_qwen2_5_vl(
    folder: Path,
    *,
    hidden_size: int = 128,
    layers: int = 3,
    vision_layers: int = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """A Qwen2.5-VL of random weights, 1.1 million of them by default, with a byte-level tokenizer.

    Args:
        folder: where to write; made when missing.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: layers of the vision tower; the last one attends to the whole image, the others to windows.
        initializer_range: standard deviation of the weights. The families' own 0.02 suits thousands of channels; with
            a hundred the first hundreds of steps would learn nothing.
        seed: of the weights.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = byte_level_tokenizer()
    config = tiny_config(tokenizer, hidden_size=hidden_size, layers=layers, vision_layers=vision_layers)
    sections: tuple[Any, ...] = (config, config.text_config, config.vision_config)
    for section in sections:
        section.initializer_range = initializer_range
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_image_processor(folder, config)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes and Qwen's special tokens; any text is encoded without loss."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
    )


def tiny_config(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int, vision_layers: int
) -> Qwen2_5_VLConfig:
    """The configuration of a small Qwen2.5-VL whose token ids are those of `tokenizer`."""
    from transformers import Qwen2_5_VLConfig

    heads = 4
    half = hidden_size // heads // 2  # rotary frequencies a head, split over time, height and width
    sides = (half - half // 4) // 2
    ids = tokenizer.get_vocab()
    text = {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [half - 2 * sides, sides, sides],
            "rope_theta": 1e6,
        },
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": hidden_size // 2,
        "intermediate_size": 2 * hidden_size,
        "num_heads": 2,
        "out_hidden_size": hidden_size,
        "fullatt_block_indexes": [vision_layers - 1],
        "window_size": 112,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def write_image_processor(folder: Path, config: Qwen2_5_VLConfig) -> None:
    """Writes `preprocessor_config.json` with Qwen2.5-VL's own constants."""
    vision: Any = config.vision_config
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
