"""A Qwen3-VL small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-VL-4B-Instruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from basereward.model.tiny_models._byte_level import byte_level_tokenizer
from basereward.model.tiny_models._qwen import (
    language,
    picture_tokens,
    spread,
    three_axes,
    write_checkpoint,
    write_image_processor,
)


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

    Its heads together are wider than its stream, as in the 4B. All blocks of the vision tower but the last also give
    their states to the language model, one to a layer from the first on, while there are layers.

    Args:
        folder: where to write; made when missing.
        hidden_size: width of the language model; a multiple of 32.
        layers: layers of the language model.
        vision_layers: blocks of the vision tower.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = byte_level_tokenizer()
    head_size = hidden_size * 3 // 8
    config = Qwen3VLConfig(
        text_config=language(tokenizer, hidden_size=hidden_size, layers=layers)
        | {"head_dim": head_size, "rope_parameters": three_axes([head_size // 6] * 3)},
        vision_config={
            "depth": vision_layers,
            "hidden_size": hidden_size // 2,
            "intermediate_size": 2 * hidden_size,
            "num_heads": 2,
            "out_hidden_size": hidden_size,
            "patch_size": 16,
            "num_position_embeddings": 36,  # six by six, stretched over every picture
            "deepstack_visual_indexes": list(range(min(layers, vision_layers - 1))),
        },
        **picture_tokens(tokenizer),
    )
    spread(config, initializer_range)
    write_checkpoint(folder, lambda: Qwen3VLForConditionalGeneration(config), tokenizer=tokenizer, seed=seed)
    write_image_processor(folder, processor="Qwen3VLProcessor", patch_size=16)
