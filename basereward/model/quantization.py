"""Four-bit and eight-bit weights through bitsandbytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from basereward.errors import ModelError, unknown
from basereward.model.families.registry import vision_families

Quantization = Literal["nf4", "int8"]


def _unquantized_modules() -> list[str]:
    """Modules that stay in floating point: those that read images, and the language-model head."""
    modules = ["lm_head"]
    for family in vision_families():
        modules += family.unquantized_modules
    return modules


def quantization_config(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The configuration that quantises the language model.

    The vision tower and its merger, a small share of the weights, stay in floating point.

    Args:
        kind: `nf4` is the 4-bit normal float of QLoRA (arXiv 2305.14314) with doubly quantised scales; `int8` is
            LLM.int8() (arXiv 2208.07339).
        dtype: in which 4-bit weights are multiplied.

    Raises:
        ModelError: there is no such kind.

    >>> quantization_config("int8", torch.bfloat16).load_in_8bit
    True
    """
    if kind not in get_args(Quantization):
        raise ModelError(unknown("quantization", str(kind), get_args(Quantization)))
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=_unquantized_modules(),
        )
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_unquantized_modules())


def keep_four_bit_weights(model: nn.Module) -> None:
    """Prevents bitsandbytes from repacking 4-bit weights on CPUs.

    On CPUs with bf16 instructions it repacks them, permanently and at lower precision, when they are first used without
    gradients: a validation during training would change the model that is trained.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer holds 4-bit or 8-bit weights of bitsandbytes."""
    return type(layer).__name__ in {"Linear4bit", "Linear8bitLt"}


def dequantized(layer: nn.Module) -> Tensor:
    """The weight of a linear layer in floating point, shape `(outputs, inputs)`."""
    weight: Any = layer.weight  # bitsandbytes' own parameter classes when it is quantised
    if not is_quantized(layer):
        plain: Tensor = weight.data
        return plain
    from bitsandbytes import functional  # its import searches for kernels and prints warnings

    if type(layer).__name__ == "Linear4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state)
    state: Any = layer.state
    dense: Tensor = functional.int8_vectorwise_dequant(weight.data, weight.SCB if weight.SCB is not None else state.SCB)
    return dense
