"""Four-bit and eight-bit weights: which layers are quantised, that evaluation does not change them, and their rounding
errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from basereward.data.batching.collate import collate
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.parts import part_of
from basereward.model.quantization import dequantized, is_quantized
from tests.helpers.support import encoded_group

FolderOf = Callable[[str], Path]


def quantized_layers(backbone: Backbone) -> dict[str, Any]:
    """Return the quantised layers by name."""
    return {name: module for name, module in backbone.transformer.named_modules() if is_quantized(module)}


def copy_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Return a copy of the stored bytes and of the dequantised values of every quantised weight."""
    weights = {name: module.weight.data.clone() for name, module in quantized_layers(backbone).items()}
    return weights | {
        f"{name} dense": dequantized(module).clone() for name, module in quantized_layers(backbone).items()
    }


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_only_the_language_model_is_quantised(kind: Any, folder_of: FolderOf) -> None:
    """Every linear layer of the language model is quantised, and none of the vision tower or the merger.

    All weights are frozen.
    """
    backbone = load_backbone(folder_of("qwen2_5_vl"), quantization=kind)
    linear = {name for name, module in backbone.transformer.named_modules() if isinstance(module, nn.Linear)}
    assert set(quantized_layers(backbone)) == {name for name in linear if part_of(name) == "language"}
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_evaluation_does_not_change_weights(kind: Any, folder_of: FolderOf) -> None:
    """After passes without gradients the stored bytes and the states of a training pass are unchanged."""
    backbone = load_backbone(folder_of("llama"), quantization=kind)
    batch = collate([encoded_group(4, [3, 5])], layout="tree", pad_id=0)
    backbone.train()
    expected = backbone(batch).detach()
    weights_before = copy_weights(backbone)
    backbone.eval()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            evaluated = backbone(batch)
    assert kind == "int8" or torch.equal(evaluated, expected), "LLM.int8() rounds the inputs too, in evaluation only"
    backbone.train()
    assert torch.equal(backbone(batch).detach(), expected)
    weights_after = copy_weights(backbone)
    assert all(torch.equal(weight, weights_after[name]) for name, weight in weights_before.items())


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@torch.no_grad()
def test_dequantised_weights_equal_those_of_bitsandbytes(kind: Any, folder_of: FolderOf) -> None:
    """A quantised layer maps the unit vectors to the columns of its dequantised weight."""
    backbone = load_backbone(folder_of("qwen2"), quantization=kind)
    for name, layer in quantized_layers(backbone).items():
        dense = dequantized(layer)
        assert dense.shape == (layer.out_features, layer.in_features)
        unit = torch.eye(layer.in_features)
        columns = layer(unit) - (layer.bias if layer.bias is not None else 0)
        torch.testing.assert_close(
            columns.T, dense.float(), rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


# NF4 as QLoRA publishes it (arXiv 2305.14314, appendix E).
BELOW = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911)
ABOVE = (0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0)
NF4 = torch.tensor((*BELOW, 0.0, *ABOVE))


def test_nf4_weights_are_the_published_levels(folder_of: FolderOf) -> None:
    """Every block of 64 weights is a scale times the 16 published levels, with errors of at most half the widest gap
    between levels."""
    plain, quantised = load_backbone(folder_of("llama")), load_backbone(folder_of("llama"), quantization="nf4")
    for name, layer in quantized_layers(quantised).items():
        weight = plain.transformer.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        blocks, exact = dequantized(layer).reshape(-1, 64), weight.detach().reshape(-1, 64)
        levels = blocks / blocks.abs().amax(-1, keepdim=True)
        assert float((levels[..., None] - NF4).abs().amin(-1).max()) < 1e-3
        largest = exact.abs().amax(-1, keepdim=True)
        # The levels -1 and -0.696 are furthest apart; the scales, quantised too, add a few percent.
        assert bool(((blocks - exact).abs() <= (0.304 / 2 + 0.05) * largest).all())
        assert float((blocks - exact).norm()) < 0.15 * float(exact.norm())


def test_int8_weights_are_steps_of_a_row(folder_of: FolderOf) -> None:
    """Every weight is off by at most half a step, which is the row's largest weight divided by 127. bitsandbytes first
    rounds to half precision, which adds up to 127 / 2^11 of a step."""
    plain, quantised = load_backbone(folder_of("llama")), load_backbone(folder_of("llama"), quantization="int8")
    for name, layer in quantized_layers(quantised).items():
        weight = plain.transformer.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        step = weight.detach().abs().amax(-1, keepdim=True) / 127
        assert bool(((dequantized(layer) - weight).abs() <= (0.5 + 127 / 2**11) * step).all())


def test_unquantised_layer_keeps_its_weight() -> None:
    """A floating-point layer is not quantised, and `dequantized` returns its weight unchanged."""
    layer = nn.Linear(4, 3)
    assert not is_quantized(layer)
    assert torch.equal(dequantized(layer), layer.weight)
