"""A Qwen2.5-VL small enough for two CPU cores, in the format of the hub.

The folder has the files of the hub's `Qwen/Qwen2.5-VL-7B-Instruct` (config, safetensors, tokenizer, chat template,
image processor), so the same code loads both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basereward.model.tiny_models._checkpoint import (
    QWEN_PREPROCESSOR,
    TinySizes,
    image_model,
    image_token_settings,
    quarter_for_time,
    text_settings,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@image_model(
    config="Qwen2_5_VLConfig",
    model="Qwen2_5_VLForConditionalGeneration",
    preprocessor=QWEN_PREPROCESSOR | {"processor_class": "Qwen2_5_VLProcessor"},
)
def tiny_qwen2_5_vl(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A Qwen2.5-VL of random weights, 1.1 million of them by default; `hidden_size` is a multiple of 32."""
    return {
        "text_config": text_settings(sizes, tokenizer) | {"rope_parameters": quarter_for_time(sizes.hidden_size)},
        "vision_config": {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.hidden_size // 2,
            "intermediate_size": 2 * sizes.hidden_size,
            "num_heads": 2,
            "out_hidden_size": sizes.hidden_size,
            # The last layer attends to the whole image, the others to windows: both kinds of attention run.
            "fullatt_block_indexes": [sizes.vision_layers - 1],
            "window_size": 112,
        },
        **image_token_settings(tokenizer),
    }
