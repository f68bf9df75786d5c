"""LoRA adapters on parts of a backbone (arXiv 2106.09685), and merging them into the weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from basereward.errors import ModelError
from basereward.model.attention.gradient_checkpointing import need_no_input_gradients
from basereward.model.families.parts import linear_layers
from basereward.model.quantization import dequantized, is_quantized


def add_lora(
    backbone: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
    parts: Sequence[str] = ("language",),
    seed: int = 0,
) -> PeftModel:
    """Adds adapters to every linear layer of the parts and freezes all other weights.

    Args:
        backbone: without adapters.
        rank: r, the inner dimension of the two factors.
        alpha: the product is scaled by `alpha / rank`, or with `rslora` by `alpha / sqrt(rank)` (arXiv 2312.03732).
        dropout: probability of dropout on the input of the adapters.
        rslora: whether to scale with the square root of the rank; see `alpha`.
        parts: any of `vision`, `merger`, `language`.
        seed: of the first factor; the second starts at zero, so scores do not change at first.

    Raises:
        ModelError: the backbone has no linear layer in the parts.
    """
    targets = list(linear_layers(backbone, parts))
    if not targets:
        raise ModelError(
            f"model.lora.parts is {list(parts)}, and the backbone has no linear layer in these parts; allowed are "
            "vision, merger and language. A text-only backbone has only language."
        )
    config = LoraConfig(
        r=rank,
        # peft declares an int, and uses the number only in a division.
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        use_rslora=rslora,
        target_modules=targets,
        bias="none",
    )
    # peft draws the factors from the generator of the process; the fork keeps the state of the caller.
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.manual_seed(seed)
        adapted = get_peft_model(backbone, config)
    prepare_adapters(adapted)
    # peft has just required the gradient again that `enable_gradient_checkpointing` removed.
    need_no_input_gradients(backbone)
    return adapted


def prepare_adapters(model: nn.Module) -> None:
    """Lets adapters multiply in the precision of their input, and add their product in place.

    peft keeps adapters in float32 and casts their input to float32: over a backbone in bfloat16 their products would be
    in float32, at a fraction of the speed, and each adapter would keep a float32 copy of its input. Here the weights,
    which are small, are cast for each product, and stay in float32 for the optimizer.

    peft also writes the product of an adapter, scales it and adds it to that of the weight; here one matrix product
    does all three, and its gradient is not scaled at the full width.

    Args:
        model: with adapters.

    >>> prepare_adapters(nn.Linear(2, 2))  # has no adapters
    """
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        module.cast_input_dtype_enabled = False
        for factor in (*module.lora_A.values(), *module.lora_B.values()):
            # A method of this object and not a closure: a deep copy of the model then has methods of its own.
            factor.forward = MethodType(_factor_forward, factor)
        # Layers over weights of bitsandbytes have classes of their own.
        if type(module).__name__ == LoraLinear.__name__:
            module.forward = MethodType(_adapted_forward, module)


def _adapted_forward(self: Any, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`forward` of a linear layer with adapters that are plain, active and not merged; otherwise that of peft."""
    if args or kwargs or self.disable_adapters or self.merged or self.lora_variant:
        whole: Tensor = LoraLinear.forward(self, states, *args, **kwargs)
        return whole
    # Of two axes from the start: the gradient of an addition in place to a view would be copied.
    tokens = states.flatten(0, -2)
    result: Tensor = self.base_layer(tokens)
    for adapter in self.active_adapters:
        if adapter not in self.lora_A:
            continue
        inner = self.lora_A[adapter](self.lora_dropout[adapter](tokens))
        factor = self.lora_B[adapter].weight.to(inner.dtype).T
        if factor.device.type == "cpu":
            # torch computes the gradient of a factor in the layout of the factor. For a transposed view that is a tall
            # and thin product over all tokens, which takes MKL five times as long.
            factor = factor.contiguous()
        # In place: nothing else has read the result of the layer, and no gradient needs it.
        result.addmm_(inner, factor, alpha=self.scaling[adapter])
    return result.view(*states.shape[:-1], -1)


def _factor_forward(self: nn.Linear, states: Tensor) -> Tensor:
    """`forward` of one factor of an adapter."""
    weight = self.weight
    device = states.device.type
    # Autocast casts the weight by itself.
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if weight.dtype != states.dtype and not casts:
        weight = weight.to(states.dtype)
    return linear(states, weight, self.bias)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Hides the warning about the old name by which peft asks transformers for gradient checkpointing.

    >>> with quiet_peft():
    ...     warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed in v6. Use ...", FutureWarning)
    """
    with warnings.catch_warnings():
        message = r"`is_gradient_checkpointing` is deprecated and will be removed in v6\. Use "
        warnings.filterwarnings("ignore", message=message, category=FutureWarning)
        yield


@torch.no_grad()
def merge_lora(model: PeftModel) -> PreTrainedModel:
    """Merges the adapters into the weights, which are all in floating point afterwards.

    A quantised weight is dequantised first: rounding the sum to four or eight bits again would change the scores.

    Args:
        model: its transformer is changed.

    Returns:
        The transformer, without adapters.
    """
    backbone = model.get_base_model()
    assert isinstance(backbone, PreTrainedModel)
    for name, module in list(backbone.named_modules()):
        if isinstance(module, LoraLayer):
            # Every kind of layer defines `get_delta_weight`, but their common base class does not.
            layer: Any = module
            delta = sum((layer.get_delta_weight(adapter) for adapter in layer.active_adapters), torch.tensor(0.0))
            _replace(backbone, name, _plain_linear(layer.get_base_layer(), backbone.dtype, delta))
    return to_floating_point(backbone)


@torch.no_grad()
def to_floating_point(backbone: PreTrainedModel) -> PreTrainedModel:
    """Dequantises all layers of a transformer without adapters, which is changed and returned."""
    # A partly quantised model could be neither saved nor cast.
    for name, module in list(backbone.named_modules()):
        if is_quantized(module):
            _replace(backbone, name, _plain_linear(module, backbone.dtype))
    # By these marks, transformers would refuse to save the model, or save it as quantised.
    for attribute in ("peft_config", "hf_quantizer", "quantization_method"):
        backbone.__dict__.pop(attribute, None)
    for flag in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "_hf_peft_config_loaded"):
        setattr(backbone, flag, False)
    if hasattr(backbone.config, "quantization_config"):
        del backbone.config.quantization_config
    return backbone


def _plain_linear(layer: nn.Module, dtype: torch.dtype, delta: Tensor | float = 0.0) -> nn.Linear:
    """A linear layer in floating point with the weight of `layer` plus `delta`."""
    # The sum is rounded once, to the precision of the backbone.
    weight = dequantized(layer).float() + delta
    bias = layer.bias
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=dtype)
    plain.weight.copy_(weight.to(dtype))
    if isinstance(bias, Tensor):
        plain.bias.copy_(bias)
    return plain


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    """Replaces the submodule with a dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)
