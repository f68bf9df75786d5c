"""A Qwen2.5-VL small enough for two CPU cores, in the format of the hub.

The folder has the files of the hub's `Qwen/Qwen2.5-VL-7B-Instruct` (config, safetensors, tokenizer, chat template,
image processor), so the same code loads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from basereward.model.tiny_models._checkpoint import (
    QWEN_PREPROCESSOR,
    TinyFamily,
    TinySizes,
    image_token_settings,
    quarter_for_time,
    text_settings,
    write_tiny,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
        folder: where to write; it is created if it does not exist.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: layers of the vision tower; the last one attends to the whole image, the others to windows.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    sizes = TinySizes(hidden_size, layers, vision_layers)
    write_tiny(folder, FAMILY, sizes, initializer_range=initializer_range, seed=seed)


def _settings(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "text_config": text_settings(sizes, tokenizer) | {"rope_parameters": quarter_for_time(sizes.hidden_size)},
        "vision_config": {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.hidden_size // 2,
            "intermediate_size": 2 * sizes.hidden_size,
            "num_heads": 2,
            "out_hidden_size": sizes.hidden_size,
            "fullatt_block_indexes": [sizes.vision_layers - 1],
            "window_size": 112,
        },
        **image_token_settings(tokenizer),
    }


FAMILY = TinyFamily(
    config="Qwen2_5_VLConfig",
    model="Qwen2_5_VLForConditionalGeneration",
    settings=_settings,
    preprocessor=QWEN_PREPROCESSOR | {"processor_class": "Qwen2_5_VLProcessor"},
)
