"""A Qwen2-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen2-VL-7B-Instruct`."""

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
    config="Qwen2VLConfig",
    model="Qwen2VLForConditionalGeneration",
    preprocessor=QWEN_PREPROCESSOR,
)
def tiny_qwen2_vl(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A Qwen2-VL of random weights; `hidden_size` is a multiple of 32.

    All layers of its vision tower attend to the whole image.
    """
    return {
        "text_config": text_settings(sizes, tokenizer) | {"rope_parameters": quarter_for_time(sizes.hidden_size)},
        "vision_config": {
            "depth": sizes.vision_layers,
            "embed_dim": sizes.hidden_size // 2,
            "mlp_ratio": 4,
            "num_heads": 2,
            # This family calls the width of the tower's output `hidden_size`; its own width is `embed_dim`.
            "hidden_size": sizes.hidden_size,
        },
        **image_token_settings(tokenizer),
    }
