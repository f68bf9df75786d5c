"""Liger kernels: errors where they cannot run, and the modules that they replace."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from basereward import build, load_recipe
from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.attention.kernels import FusedKernels, find_kernels, is_rms_norm, is_swiglu, use_kernels
from basereward.model.attention.rms_norm import rms_norm
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.families.registry import liger_types
from tests.helpers.support import SMALL, gradients, mixed_groups

FolderOf = Callable[[str], Path]
INSTALLED = importlib.util.find_spec("liger_kernel") is not None
ON_GPU = torch.cuda.is_available()


@pytest.mark.skipif(INSTALLED and ON_GPU, reason="Liger's kernels can run here")
def test_unavailable_kernels_are_refused(folder_of: FolderOf) -> None:
    """The error names the key, its value, everything that is missing and the allowed value."""
    with pytest.raises(ModelError) as excinfo:
        load_backbone(folder_of("llama"), kernels="liger")
    message = str(excinfo.value)
    assert message.startswith("model.backbone.kernels is 'liger', and ")
    assert ("there is no NVIDIA GPU" in message) is not ON_GPU
    assert ("pip install 'basereward[liger]'" in message) is not INSTALLED
    assert message.endswith("Allowed without: auto, none.")


@pytest.mark.skipif(INSTALLED and ON_GPU, reason="Liger's kernels can run here")
def test_build_refuses_unavailable_kernels() -> None:
    """`build` raises the error before it creates a run folder or reads data."""
    with pytest.raises(ModelError, match=r"model\.backbone\.kernels"):
        build(load_recipe("basereward", overrides=[*SMALL, "model.backbone.kernels=liger", "trainer.accelerator=auto"]))


@pytest.mark.parametrize("family", liger_types())
def test_norms_and_feed_forward_networks_are_detected(family: str, folder_of: FolderOf) -> None:
    """Every layer has two norms and a feed-forward network, and the model a final norm.

    Qwen3 also normalises queries and keys, and the vision tower of Qwen2.5-VL has the same modules.
    """
    transformer = load_backbone(folder_of(family)).transformer
    layers = transformer.config.get_text_config().num_hidden_layers
    norms = 4 if "qwen3" in family else 2
    # Two norms in each of two blocks and one before the merger.
    vision_norms = {"qwen2_5_vl": 2 * 2 + 1}.get(family, 0)
    assert sum(map(is_rms_norm, transformer.modules())) == norms * layers + 1 + vision_norms
    assert sum(map(is_swiglu, transformer.modules())) == layers + (2 if vision_norms else 0)
    modeling_module = __import__(type(transformer).__module__, fromlist=["_"])
    assert callable(modeling_module.apply_rotary_pos_emb)


class WrittenOut:
    """The formulas of the fused kernels written out, in float32, with the number of their calls."""

    def __init__(self) -> None:
        self.calls = Counter[str]()

    def kernels(self, *devices: str) -> FusedKernels:
        """Return them as kernels for some devices."""
        return FusedKernels(self.norm, self.swiglu, self.rotary, devices)

    def norm(self, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Divide by the root of the mean of the squares (arXiv 1910.07467)."""
        self.calls["norm"] += 1
        return weight * (states / (states.square().sum(-1, keepdim=True) / states.shape[-1] + epsilon) ** 0.5)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """Multiply by `gate * sigmoid(gate)` (arXiv 2002.05202)."""
        self.calls["swiglu"] += 1
        return gate / (1 + (-gate).exp()) * up

    def rotary(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply pairs of channels, as complex numbers, by `cos + i sin` (arXiv 2104.09864); as Liger's kernel, it
        reads the first half of the angles."""
        self.calls["rotary"] += 1
        half = cos.shape[-1] // 2
        turn = torch.complex(cos[..., :half], sin[..., :half])[:, None]
        turned = []
        for states in (query, key):
            product = torch.complex(states[..., :half].contiguous(), states[..., half:].contiguous()) * turn
            turned.append(torch.cat([product.real, product.imag], dim=-1))
        return turned[0], turned[1]


def states_and_gradients(backbone: Backbone, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the states of a batch and the gradients of their sum of squares."""
    states = backbone(batch)
    states.square().sum().backward()
    return states.detach(), gradients(backbone)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen2", "qwen3", "llama"])
def test_every_module_calls_its_kernel_with_the_right_arguments(family: str, folder_of: FolderOf) -> None:
    """With formulas written out by hand in place of the kernels, states and gradients stay the same, and every norm,
    feed-forward network and rotation calls its kernel once."""
    plain, fused = (load_backbone(folder_of(family)).train() for _ in range(2))
    written_out = WrittenOut()
    use_kernels(fused.transformer, written_out.kernels("cpu"))
    encoder = load_encoder(folder_of(family))
    groups = mixed_groups(vision=plain.reads_images)
    batch = collate([encoder(item) for item in groups], layout="tree", pad_id=encoder.pad_id)
    expected, expected_gradients = states_and_gradients(plain, batch)
    actual, actual_gradients = states_and_gradients(fused, batch)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert actual_gradients.keys() == expected_gradients.keys()
    for name, gradient in actual_gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    assert written_out.calls == {
        "norm": sum(map(is_rms_norm, fused.modules())),
        "swiglu": sum(map(is_swiglu, fused.modules())),
        "rotary": fused.transformer.config.get_text_config().num_hidden_layers,
    }


def test_kernels_of_another_device_change_nothing(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """A model with kernels for a GPU runs on the CPU with the family's own operations, bit for bit."""
    plain, fused = (load_backbone(folder_of("qwen2_5_vl")) for _ in range(2))
    written_out = WrittenOut()
    use_kernels(fused.transformer, written_out.kernels("cuda"))
    assert torch.equal(fused(pictures), plain(pictures))
    assert not written_out.calls


def test_auto_takes_kernels_that_run_here() -> None:
    """On a GPU with the package Liger's, elsewhere the norm alone on the CPU; none for a family without kernels."""
    kernels = find_kernels("auto", family="llama")
    assert kernels is not None
    assert (kernels.rotary is not None) is (INSTALLED and ON_GPU)
    assert kernels.devices == (("cuda",) if INSTALLED and ON_GPU else ("cpu",))
    assert find_kernels("auto", family="bloom") is None


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")])
def test_norm_equals_the_formula_of_transformers(dtypes: tuple[str, str]) -> None:
    """Values and both gradients of the norm are those of the family's own class, in float32 to 1e-6."""
    states_dtype, weight_dtype = (getattr(torch, name) for name in dtypes)
    generator = torch.Generator().manual_seed(0)
    own = LlamaRMSNorm(48, eps=1e-6)
    own.weight.data = torch.randn(48, generator=generator).to(weight_dtype)
    states = torch.randn(2, 7, 48, generator=generator).to(states_dtype).requires_grad_()
    upstream = torch.randn(2, 7, 48, generator=generator)
    results = []
    for function in (own, lambda states: rms_norm(states, own.weight, 1e-6)):
        states.grad = own.weight.grad = None
        output = function(states)
        (output * upstream.to(output.dtype)).sum().backward()
        results.append((output.detach(), states.grad, own.weight.grad))
    tolerance = 1e-6 if states_dtype == torch.float32 else 0.02
    for actual, expected in zip(*reversed(results), strict=True):
        assert actual is not None
        assert expected is not None
        torch.testing.assert_close(actual, expected, rtol=10 * tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not INSTALLED, reason="liger-kernel is not installed")
def test_fused_and_plain_kernels_agree(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Hidden states agree, the plain model keeps its own kernels, and the same parameters get gradients."""
    plain, fused = (
        load_backbone(folder_of("qwen2_5_vl"), kernels=kernels).cuda().train() for kernels in ("none", "liger")
    )
    batch = pictures.to(torch.device("cuda"))
    expected, actual = plain(batch), fused(batch)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for (name, plain_parameter), (_, fused_parameter) in zip(
        plain.named_parameters(), fused.named_parameters(), strict=True
    ):
        assert (plain_parameter.grad is None) == (fused_parameter.grad is None), name
