"""Liger's fused kernels for norms, SwiGLU and rotary positions (arXiv 2410.10989)."""

from __future__ import annotations

import importlib.util
from types import FunctionType, MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from basereward.errors import ModelError, unknown
from basereward.model.families.parts import decoder_layers
from basereward.model.families.registry import liger_types

Kernels = Literal["none", "liger"]
# The name of the function that applies rotary positions, in transformers' modelling files of these families.
ROTARY = "apply_rotary_pos_emb"


def check_liger(family: str | None = None) -> None:
    """Checks that Liger's kernels can run on this machine and for a family.

    Args:
        family: `model_type` of the decoder layers; None: only the machine is checked.

    Raises:
        ModelError: there is no NVIDIA GPU, the package is not installed, or the family has no kernels.

    >>> check_liger("bloom")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: model.backbone.kernels is 'liger'...
    """
    missing = []
    if not torch.cuda.is_available():
        missing.append("there is no NVIDIA GPU on this machine")
    if importlib.util.find_spec("liger_kernel") is None:
        missing.append("the package liger-kernel is not installed (pip install 'basereward[liger]')")
    if missing:
        raise ModelError(f"model.backbone.kernels is 'liger', and {', and '.join(missing)}. Allowed without: none.")
    if family is not None and family not in liger_types():
        raise ModelError("model.backbone.kernels is 'liger': " + unknown("family", family, liger_types()))


def use_liger(transformer: PreTrainedModel) -> None:
    """Replaces the forward functions of a transformer's modules by Liger's kernels.

    Only this model changes. Liger's own patching replaces classes of transformers for every model in the process, and
    depends on the class names of single versions; its functions are stable.

    Args:
        transformer: of a family in `liger_types`, on an NVIDIA GPU.
    """
    # An extra that does not import on a machine without a GPU.
    from liger_kernel.transformers.functional import liger_rms_norm, liger_rope, liger_swiglu

    def norm(self: Any, states: Tensor) -> Any:
        # In place, the kernel would overwrite the incoming gradient, which other operations may still read.
        return liger_rms_norm(states, self.weight, self.variance_epsilon, in_place=False)

    def feed_forward(self: Any, states: Tensor) -> Any:
        return self.down_proj(liger_swiglu(self.gate_proj(states), self.up_proj(states)))

    for module in transformer.modules():
        if is_rms_norm(module):
            _bind(module, norm)
        elif is_swiglu(module):
            _bind(module, feed_forward)
    for layer in decoder_layers(transformer):
        attend = type(layer.self_attn).forward
        # transformers' `forward` calls the rotary function as a global of its modelling file, and has no argument for
        # another one. Setting the global would change every model of the family in the process, compiled and reference
        # ones too. So this model gets a copy of the function `forward` with a dictionary of globals of its own; the
        # modelling file keeps its globals.
        names = {**attend.__globals__, ROTARY: liger_rope}
        own = FunctionType(attend.__code__, names, attend.__name__, attend.__defaults__, attend.__closure__)
        own.__kwdefaults__ = attend.__kwdefaults__
        _bind(layer.self_attn, own)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is an RMS norm, by the class name that every family uses.

    >>> is_rms_norm(nn.RMSNorm(4))  # torch's own has no `variance_epsilon`
    False
    """
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def is_swiglu(module: nn.Module) -> bool:
    """Whether a module is a feed-forward network with a SiLU gate (arXiv 2002.05202).

    >>> is_swiglu(nn.Linear(4, 4))
    False
    """
    # A gate with another activation, such as GELU in Gemma, has the same layers; Liger's kernel would compute SiLU.
    gated = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    return gated and isinstance(getattr(module, "act_fn", None), (nn.SiLU, type(ACT2FN["silu"])))


def _bind(module: nn.Module, forward: Any) -> None:
    """Sets `forward` as a method and not as a closure: a deep copy of the model then has methods of its own."""
    module.forward = MethodType(forward, module)
