"""A text-only Qwen3 small enough for two CPU cores, in the layout of the hub's `Qwen/Qwen3-8B`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basereward.model.tiny_models._checkpoint import HEADS, TinySizes, text_model, text_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@text_model(config="Qwen3Config", model="Qwen3ForCausalLM")
def tiny_qwen3(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A Qwen3 of random weights, which reads no images; `hidden_size` is a multiple of 8."""
    # Qwen3's default head size is 128 whatever the width.
    return {"head_dim": sizes.hidden_size // HEADS, **text_settings(sizes, tokenizer)}
