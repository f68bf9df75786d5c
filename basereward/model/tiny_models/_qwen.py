"""What small checkpoints have in common: Qwen's proportions, its image processor, and how a folder is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

HEADS = 4


def write_checkpoint(
    folder: Path, model: Callable[[], PreTrainedModel], *, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    """Writes weights, configuration and tokenizer as the hub has them.

    Args:
        folder: where to write; made when missing.
        model: draws the weights from torch's generator.
        seed: of that generator, whose state is as before afterwards.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = model()
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def spread(config: PreTrainedConfig, initializer_range: float) -> None:
    """Sets the standard deviation of the weights, of the parts too."""
    sections: tuple[Any, ...] = (config, *(getattr(config, name) for name in config.sub_configs))
    for section in sections:
        section.initializer_range = initializer_range


def language(tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, layers: int) -> dict[str, Any]:
    """The configuration of a small language model of Qwen's proportions, whose token ids are those of `tokenizer`."""
    ids = tokenizer.get_vocab()
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def three_axes(sections: list[int]) -> dict[str, Any]:
    """Rotary positions whose frequencies are split over time, height and width."""
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}


def quarter_for_time(hidden_size: int) -> dict[str, Any]:
    """The rotary positions of Qwen2-VL and Qwen2.5-VL: a quarter or little more of the frequencies is for time."""
    half = hidden_size // HEADS // 2
    sides = (half - half // 4) // 2
    return three_axes([half - 2 * sides, sides, sides])


def picture_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The ids by which a configuration of Qwen's families knows pictures."""
    ids = tokenizer.get_vocab()
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def write_image_processor(folder: Path, *, processor: str, patch_size: int = 14) -> None:
    """Writes `preprocessor_config.json` with Qwen2-VL's own constants; four patches, two by two, are one token.

    Args:
        folder: where to write; made when missing.
        processor: the family's class of processors, for tokens and pictures together.
        patch_size: side of a patch, in pixels.
    """
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        "patch_size": patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
