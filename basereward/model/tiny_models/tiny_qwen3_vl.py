"""A Qwen3-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-VL-4B-Instruct`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from basereward.model.tiny_models._checkpoint import (
    QWEN_PREPROCESSOR,
    TinyFamily,
    TinySizes,
    image_token_settings,
    text_settings,
    three_axes,
    write_tiny,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tiny_qwen3_vl(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    vision_layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """A Qwen3-VL of random weights with a byte-level tokenizer.

    Its attention heads together are wider than `hidden_size`, as in the 4B. All blocks of the vision tower except the
    last also give their states to the language model, one block to each layer from the first on.

    Args:
        folder: where to write; it is created if it does not exist.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: blocks of the vision tower.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    sizes = TinySizes(hidden_size, layers, vision_layers)
    write_tiny(folder, FAMILY, sizes, initializer_range=initializer_range, seed=seed)


def _settings(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
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
            "num_position_embeddings": 36,  # six by six, interpolated to the grid of each image
            # No more blocks than the language model has layers to take their states.
            "deepstack_visual_indexes": list(range(min(sizes.layers, sizes.vision_layers - 1))),
        },
        **image_token_settings(tokenizer),
    }


FAMILY = TinyFamily(
    config="Qwen3VLConfig",
    model="Qwen3VLForConditionalGeneration",
    settings=_settings,
    preprocessor=QWEN_PREPROCESSOR | {"processor_class": "Qwen3VLProcessor", "patch_size": 16},
)
