"""A text-only Qwen3 small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-8B`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from basereward.model.tiny_models._checkpoint import HEADS, TinyFamily, TinySizes, text_settings, write_tiny

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tiny_qwen3(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """A Qwen3 of random weights with a byte-level tokenizer; it reads no images.

    Args:
        folder: where to write; it is created if it does not exist.
        hidden_size: width of the model; a multiple of 8.
        layers: number of layers.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    write_tiny(folder, FAMILY, TinySizes(hidden_size, layers), initializer_range=initializer_range, seed=seed)


def _settings(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    # Qwen3's default head size is 128 whatever the width.
    return {"head_dim": sizes.hidden_size // HEADS, **text_settings(sizes, tokenizer)}


FAMILY = TinyFamily(config="Qwen3Config", model="Qwen3ForCausalLM", settings=_settings)
