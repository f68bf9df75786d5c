"""A Qwen2-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen2-VL-7B-Instruct`."""

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
        folder: where to write; made when missing.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: layers of the vision tower; all attend to the whole image.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = byte_level_tokenizer()
    config = Qwen2VLConfig(
        text_config=language(tokenizer, hidden_size=hidden_size, layers=layers)
        | {"rope_parameters": quarter_for_time(hidden_size)},
        vision_config={
            "depth": vision_layers,
            "embed_dim": hidden_size // 2,
            "mlp_ratio": 4,
            "num_heads": 2,
            "hidden_size": hidden_size,  # of what the tower gives to the language model
        },
        **picture_tokens(tokenizer),
    )
    spread(config, initializer_range)
    write_checkpoint(folder, lambda: Qwen2VLForConditionalGeneration(config), tokenizer=tokenizer, seed=seed)
    write_image_processor(folder, processor="Qwen2VLProcessor")
