"""Four-bit and eight-bit weights through bitsandbytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from basereward.errors import ModelError, unknown
from basereward.io.processes import this_rank
from basereward.model.families.registry import vision_families

Quantization = Literal["nf4", "int8"]


def _unquantized_modules() -> list[str]:
    """Modules that stay in floating point: those that read images, and the language-model head."""
    # bitsandbytes' default leaves the head out; an explicit list replaces that default.
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

    Returns:
        The configuration for `from_pretrained`.

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
            # The default, float32, would be slower than the training precision and use no tensor cores.
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
            llm_int8_skip_modules=_unquantized_modules(),
        )
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_unquantized_modules())


def own_device() -> dict[str, Any]:
    """The option of `from_pretrained` that quantises on the GPU of this process; empty for a process by itself.

    bitsandbytes quantises on a GPU, and without the option every process of a run would use the first one.

    >>> own_device()
    {}
    """
    place = this_rank()
    if place.starter == "nobody" or not torch.cuda.is_available():
        return {}
    return {"device_map": {"": place.local % torch.cuda.device_count()}}


def keep_four_bit_weights(model: nn.Module) -> None:
    """Prevents bitsandbytes from repacking 4-bit weights on CPUs.

    On CPUs with bf16 instructions it repacks them, permanently and at lower precision, when they are first used without
    gradients. A validation during training would change the model that is being trained.

    Args:
        model: with or without 4-bit layers.

    >>> layer = nn.Linear(2, 2)
    >>> keep_four_bit_weights(layer)
    >>> hasattr(layer, "support_avx512bf16_for_cpu")  # only 4-bit layers have it
    False
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer holds 4-bit or 8-bit weights of bitsandbytes.

    >>> is_quantized(nn.Linear(2, 2))
    False
    """
    return type(layer).__name__ in {"Linear4bit", "Linear8bitLt"}


def dequantized(layer: nn.Module) -> Tensor:
    """The weight of a linear layer in floating point, shape `(outputs, inputs)`.

    >>> dequantized(nn.Linear(3, 2)).shape
    torch.Size([2, 3])
    """
    # Quantised weights have parameter classes of bitsandbytes, with attributes that torch does not declare.
    weight: Any = layer.weight
    if not is_quantized(layer):
        plain: Tensor = weight.data
        return plain
    # Its import searches for kernels and prints warnings, so it waits until it is needed.
    from bitsandbytes import functional

    if type(layer).__name__ == "Linear4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state)
    # The first forward pass moves the scales of an 8-bit weight from the weight to the state of the layer.
    state: Any = layer.state
    dense: Tensor = functional.int8_vectorwise_dequant(weight.data, weight.SCB if weight.SCB is not None else state.SCB)
    return dense
