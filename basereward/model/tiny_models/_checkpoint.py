"""Writes a small checkpoint of random weights; `TinyFamily` holds what differs between the families."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.model.tiny_models._byte_level import byte_level_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

HEADS = 4  # attention heads of every language model
QWEN_PREPROCESSOR = {
    # The constants of Qwen2-VL's own preprocessor_config.json; four patches, two by two, become one token.
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "min_pixels": 3136,
    "max_pixels": 12845056,
}


@dataclass(frozen=True, slots=True)
class TinySizes:
    """Sizes of a small model: width of the language model, its layers, layers of the vision tower."""

    hidden_size: int
    layers: int
    vision_layers: int = 0


@dataclass(frozen=True, slots=True)
class TinyFamily:
    """What a family of small models needs besides its sizes.

    Attributes:
        config: name of the configuration class in transformers.
        model: name of the model class in transformers, with its language-model head.
        settings: keyword arguments of the configuration, from the sizes and the tokenizer.
        preprocessor: content of `preprocessor_config.json`; None for a text-only family.
        tokenizer: builds the tokenizer.
        initialise: draws the weights that the model class leaves at zero, with a standard deviation.
    """

    config: str
    model: str
    settings: Callable[[TinySizes, PreTrainedTokenizerFast], dict[str, Any]]
    preprocessor: Mapping[str, Any] | None = None
    tokenizer: Callable[[], PreTrainedTokenizerFast] = byte_level_tokenizer
    initialise: Callable[[Any, float], None] | None = None


def write_tiny(folder: Path, family: TinyFamily, sizes: TinySizes, *, initializer_range: float, seed: int) -> None:
    """Writes a checkpoint of a family, with random weights, in the format of the hub.

    Args:
        folder: where to write; it is created if it does not exist.
        family: what differs between families.
        sizes: of the model.
        initializer_range: standard deviation of the weights. The families' own 0.02 is meant for thousands of channels;
            with a hundred channels the first hundreds of steps would learn nothing.
        seed: of the weights.
    """
    import transformers  # takes seconds, and `check` reads the signatures of makers without it

    tokenizer = family.tokenizer()
    config: PreTrainedConfig = getattr(transformers, family.config)(**family.settings(sizes, tokenizer))
    _set_initializer_range(config, initializer_range)

    def build() -> PreTrainedModel:
        model: PreTrainedModel = getattr(transformers, family.model)(config)
        if family.initialise is not None:
            family.initialise(model, initializer_range)
        return model

    write_checkpoint(folder, build, tokenizer=tokenizer, seed=seed)
    if family.preprocessor is not None:
        write_preprocessor(folder, family.preprocessor)


def write_checkpoint(
    folder: Path, build: Callable[[], PreTrainedModel], *, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    """Writes weights, configuration and tokenizer in the format of the hub.

    Args:
        folder: where to write; it is created if it does not exist.
        build: draws the weights from torch's generator.
        tokenizer: saved beside the weights.
        seed: of that generator; its state afterwards is as before.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_preprocessor(folder: Path, settings: Mapping[str, Any] = QWEN_PREPROCESSOR) -> None:
    """Writes the settings of an image processor as `preprocessor_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _set_initializer_range(config: PreTrainedConfig, initializer_range: float) -> None:
    """Sets the standard deviation of the weights, also in the sections for text and vision."""
    sections: tuple[Any, ...] = (config, *(getattr(config, name) for name in config.sub_configs))
    for section in sections:
        section.initializer_range = initializer_range


def text_settings(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The configuration of a small language model with Qwen's proportions and the token ids of `tokenizer`."""
    ids = tokenizer.get_vocab()
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": 4 * sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def image_token_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The token ids by which configurations of the Qwen-VL families mark images."""
    ids = tokenizer.get_vocab()
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def three_axes(sections: list[int]) -> dict[str, Any]:
    """Rotary positions whose frequencies are divided over time, height and width.

    >>> three_axes([4, 6, 6])["mrope_section"]
    [4, 6, 6]
    """
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}


def quarter_for_time(hidden_size: int) -> dict[str, Any]:
    """The rotary positions of Qwen2-VL and Qwen2.5-VL: about a quarter of the frequencies is for time.

    >>> quarter_for_time(128)["mrope_section"]  # of 16 frequencies a head
    [4, 6, 6]
    """
    frequencies = hidden_size // HEADS // 2
    side = (frequencies - frequencies // 4) // 2
    # What the division leaves over goes to time, so that the three sections cover every frequency.
    return three_axes([frequencies - 2 * side, side, side])
