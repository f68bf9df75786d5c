"""A Qwen2.5-VL small enough for two CPU cores, written in the hub's on-disk format.

The folder holds what the hub's `Qwen/Qwen2.5-VL-7B-Instruct` holds (config, safetensors, tokenizer, chat template,
image processor), so the code that loads the one loads the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from basereward.model.tiny_models._byte_level import byte_level_tokenizer
from basereward.model.tiny_models._qwen import (
    language,
    picture_tokens,
    quarter_for_time,
    spread,
    write_checkpoint,
    write_image_processor,
)


def tiny_qwen2_5_vl(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    vision_layers: Annotated[int, Interval(ge=1, le=64)] = 3,
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
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = byte_level_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=language(tokenizer, hidden_size=hidden_size, layers=layers)
        | {"rope_parameters": quarter_for_time(hidden_size)},
        vision_config={
            "depth": vision_layers,
            "hidden_size": hidden_size // 2,
            "intermediate_size": 2 * hidden_size,
            "num_heads": 2,
            "out_hidden_size": hidden_size,
            "fullatt_block_indexes": [vision_layers - 1],
            "window_size": 112,
        },
        **picture_tokens(tokenizer),
    )
    spread(config, initializer_range)
    write_checkpoint(folder, lambda: Qwen2_5_VLForConditionalGeneration(config), tokenizer=tokenizer, seed=seed)
    write_image_processor(folder, processor="Qwen2_5_VLProcessor")
