"""A Qwen2-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen2-VL-7B-Instruct`."""

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


def tiny_qwen2_vl(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    vision_layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """A Qwen2-VL of random weights with a byte-level tokenizer.

    Args:
        folder: where to write; it is created if it does not exist.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: layers of the vision tower; all attend to the whole image.
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
            "embed_dim": sizes.hidden_size // 2,
            "mlp_ratio": 4,
            "num_heads": 2,
            "hidden_size": sizes.hidden_size,  # width of the tower's output; its own width is `embed_dim`
        },
        **image_token_settings(tokenizer),
    }


FAMILY = TinyFamily(
    config="Qwen2VLConfig",
    model="Qwen2VLForConditionalGeneration",
    settings=_settings,
    preprocessor=QWEN_PREPROCESSOR,
)
