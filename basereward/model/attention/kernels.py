"""Liger's fused kernels for norms, SwiGLU and rotary positions (arXiv 2410.10989)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from basereward.errors import ModelError, unknown
from basereward.model.attention.rms_norm import rms_norm
from basereward.model.families.parts import decoder_layers
from basereward.model.families.registry import liger_types

Kernels = Literal["auto", "none", "liger"]
# The name of the function that applies rotary positions, in transformers' modelling files of these families.
ROTARY = "apply_rotary_pos_emb"


class FusedKernels(NamedTuple):
    """Functions that take the place of several operations of a decoder layer each.

    Attributes:
        norm: states, weight and epsilon to normalised states.
        swiglu: gate and up to `silu(gate) * up`; None: the layer's own operations.
        rotary: queries, keys, cosines and sines to rotated queries and keys; heads before tokens; None: the layer's own
            operations.
        devices: types of devices on which they run; elsewhere a layer calls its own operations.
    """

    norm: Callable[[Tensor, Tensor, float], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor] | None
    rotary: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None
    devices: tuple[str, ...]

    def fuse(self, states: Tensor) -> bool:
        """Whether the kernels run for these states: not inside of torch.compile, which fuses operations itself."""
        return states.device.type in self.devices and not torch.compiler.is_compiling()


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
    if not _has_nvidia_gpu():
        missing.append("there is no NVIDIA GPU on this machine")
    if importlib.util.find_spec("liger_kernel") is None:
        missing.append("the package liger-kernel is not installed (pip install 'basereward[liger]')")
    if missing:
        raise ModelError(
            f"model.backbone.kernels is 'liger', and {', and '.join(missing)}. Allowed without: auto, none."
        )
    if family is not None and family not in liger_types():
        raise ModelError("model.backbone.kernels is 'liger': " + unknown("family", family, liger_types()))


def _has_nvidia_gpu() -> bool:
    # A build of torch for AMD GPUs calls them `cuda` too.
    return torch.cuda.is_available() and torch.version.hip is None


def find_kernels(kernels: Kernels, *, family: str) -> FusedKernels | None:
    """The fused kernels that a setting asks for; None: layers call their own operations.

    Args:
        kernels: `auto` takes Liger's where they can run, and elsewhere the norm of `rms_norm` on the CPU.
        family: `model_type` of the decoder layers.

    Raises:
        ModelError: `liger`, and they cannot run.

    >>> find_kernels("none", family="llama") is None, find_kernels("auto", family="bloom") is None
    (True, True)
    """
    if kernels == "none" or (kernels == "auto" and family not in liger_types()):
        return None
    try:
        check_liger(family)
    except ModelError:
        if kernels == "liger":
            raise
        return FusedKernels(rms_norm, swiglu=None, rotary=None, devices=("cpu",))
    return load_liger()


def load_liger() -> FusedKernels:
    """Liger's functions, which are stable between versions, unlike its patches of transformers' classes."""
    # An extra that does not import on a machine without a GPU.
    from liger_kernel.transformers.functional import liger_rms_norm, liger_rope, liger_swiglu

    def norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # In place, the kernel would overwrite the incoming gradient, which other operations may still read.
        normed: Tensor = liger_rms_norm(states, weight, epsilon, in_place=False)
        return normed

    return FusedKernels(norm, liger_swiglu, liger_rope, devices=("cuda",))


def use_kernels(transformer: PreTrainedModel, kernels: FusedKernels) -> None:
    """Replaces the forward functions of a transformer's modules by fused kernels.

    Only this model changes. Liger's own patching replaces classes of transformers for every model in the process, and
    depends on the class names of single versions.

    Args:
        transformer: of a family in `liger_types`.
        kernels: from `find_kernels`.
    """

    def norm(self: Any, states: Tensor) -> Any:
        if not kernels.fuse(states):
            return type(self).forward(self, states)
        return kernels.norm(states, self.weight, self.variance_epsilon)

    def feed_forward(self: Any, states: Tensor) -> Any:
        if kernels.swiglu is None or not kernels.fuse(states):
            return type(self).forward(self, states)
        return self.down_proj(kernels.swiglu(self.gate_proj(states), self.up_proj(states)))

    for module in transformer.modules():
        if is_rms_norm(module):
            _bind(module, norm)
        elif is_swiglu(module) and kernels.swiglu is not None:
            _bind(module, feed_forward)
    for layer in decoder_layers(transformer) if kernels.rotary is not None else ():
        _replace_rotary(layer.self_attn, kernels)


def _replace_rotary(attention: Any, kernels: FusedKernels) -> None:
    """Lets one attention layer rotate queries and keys with a fused kernel."""
    attend = type(attention).forward
    own_rotary = attend.__globals__[ROTARY]

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Any:
        if kernels.rotary is None or not kernels.fuse(query):
            return own_rotary(query, key, cos, sin)
        return kernels.rotary(query, key, cos, sin)

    # transformers' `forward` calls the rotary function as a global of its modelling file, and has no argument for
    # another one. Setting the global would change every model of the family in the process, compiled and reference
    # ones too. So this model gets a copy of the function `forward` with a dictionary of globals of its own; the
    # modelling file keeps its globals.
    names = {**attend.__globals__, ROTARY: rotate}
    own = FunctionType(attend.__code__, names, attend.__name__, attend.__defaults__, attend.__closure__)
    own.__kwdefaults__ = attend.__kwdefaults__
    _bind(attention, own)


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
