"""A text-only Qwen3 small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-8B`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from basereward.model.tiny_models._byte_level import byte_level_tokenizer
from basereward.model.tiny_models._qwen import HEADS, language, spread, write_checkpoint


def tiny_qwen3(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """A Qwen3 of random weights with a byte-level tokenizer; it reads no pictures.

    Args:
        folder: where to write; made when missing.
        hidden_size: its width; a multiple of 8.
        layers: how many.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_level_tokenizer()
    config = Qwen3Config(head_dim=hidden_size // HEADS, **language(tokenizer, hidden_size=hidden_size, layers=layers))
    spread(config, initializer_range)
    write_checkpoint(folder, lambda: Qwen3ForCausalLM(config), tokenizer=tokenizer, seed=seed)
