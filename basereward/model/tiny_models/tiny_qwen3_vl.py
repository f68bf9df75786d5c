"""A Qwen3-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-VL-4B-Instruct`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basereward.model.tiny_models._checkpoint import (
    QWEN3_VIDEO_PREPROCESSOR,
    QWEN_PREPROCESSOR,
    TinySizes,
    image_model,
    image_token_settings,
    text_settings,
    three_axes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@image_model(
    config="Qwen3VLConfig",
    model="Qwen3VLForConditionalGeneration",
    preprocessor=QWEN_PREPROCESSOR | {"processor_class": "Qwen3VLProcessor", "patch_size": 16},
    video_preprocessor=QWEN3_VIDEO_PREPROCESSOR,
)
def tiny_qwen3_vl(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A Qwen3-VL of random weights; `hidden_size` is a multiple of 32.

    Its attention heads together are wider than `hidden_size`, as in the 4B. All blocks of the vision tower except the
    last also give their states to the language model, one block to each layer from the first on.
    """
    head_size = sizes.hidden_size * 3 // 8
    return {
        "text_config": text_settings(sizes, tokenizer)
        | {"head_dim": head_size, "rope_parameters": three_axes([head_size // 6] * 3)},
        "vision_config": {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.hidden_size // 2,
            "intermediate_size": 2 * sizes.hidden_size,
            "num_heads": 2,
            "out_hidden_size": sizes.hidden_size,
            "patch_size": 16,
            # Six by six learned positions, which the tower interpolates to the grid of each image.
            "num_position_embeddings": 36,
            # No more blocks than the language model has layers to take their states.
            "deepstack_visual_indexes": list(range(min(sizes.layers, sizes.vision_layers - 1))),
        },
        **image_token_settings(tokenizer),
    }
