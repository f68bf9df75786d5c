"""LoRA adapters: the layers that have them, their scale, merging into plain and quantised weights, and saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.lora import add_lora, merge_lora
from basereward.model.quantization import is_quantized
from tests.helpers.support import encoded_group, fill_adapters

FolderOf = Callable[[str], Path]


def adapted(folder: Path, *, quantization: Any = None, **options: Any) -> Backbone:
    """Return a backbone whose adapters change its states: matrix B, initialised to zero, gets random values."""
    backbone = load_backbone(folder, quantization=quantization).eval()
    backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0, **options).eval()
    torch.manual_seed(1)
    fill_adapters(backbone)
    return backbone


LINEAR = {
    "language": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "vision": {"qkv", "proj", "gate_proj", "up_proj", "down_proj"},
    "merger": {"0", "2"},
}


@pytest.mark.parametrize("parts", [["language"], ["vision"], ["merger"], ["vision", "merger", "language"]])
def test_adapters_are_on_every_linear_layer_of_the_parts(parts: list[str], folder_of: FolderOf) -> None:
    """Every linear layer of the parts has an adapter, no other layer has one, and all other weights are frozen."""
    backbone = adapted(folder_of("qwen2_5_vl"), parts=parts)
    layers = {name for name, module in backbone.transformer.named_modules() if isinstance(module, LoraLayer)}
    prefixes = {"language": "language_model.layers.", "vision": "visual.blocks.", "merger": "visual.merger.mlp."}
    for part, prefix in prefixes.items():
        part_layers = {name for name in layers if name.startswith(prefix)}
        assert {name.rpartition(".")[2] for name in part_layers} == (LINEAR[part] if part in parts else set())
        layers -= part_layers
    assert not layers
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8.0 / 4), (True, 8.0 / math.sqrt(4))])
def test_merged_weight_adds_the_scaled_product(rslora: bool, scale: float, folder_of: FolderOf) -> None:
    """Merging adds `B A` times alpha / rank to the weight, or alpha / sqrt(rank) with rsLoRA."""
    backbone = adapted(folder_of("llama"), rslora=rslora)
    layer: Any = backbone.transformer.get_submodule("layers.1.mlp.up_proj")
    weight_before = layer.get_base_layer().weight.clone()
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert isinstance(backbone.model, PeftModel)
    merged = merge_lora(backbone.model).get_submodule("layers.1.mlp.up_proj")
    assert type(merged) is nn.Linear
    assert float(product.norm()) > 0.1
    torch.testing.assert_close(merged.weight, weight_before + scale * product)


def test_new_adapters_do_not_change_states(folder_of: FolderOf) -> None:
    """Before training, the hidden states equal those of the backbone without adapters."""
    batch = collate([encoded_group(4, [3, 5])], layout="tree", pad_id=0)
    backbone = load_backbone(folder_of("llama")).eval()
    with torch.no_grad():
        expected = backbone(batch)
        backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0).eval()
        assert torch.equal(backbone(batch), expected)


@pytest.mark.parametrize(
    ("quantization", "parts"),
    [(None, LINEAR), ("nf4", LINEAR), ("nf4", ["merger"])],
    ids=["plain", "nf4", "nf4-layers-without-adapters"],
)
@torch.no_grad()
def test_merging_changes_no_hidden_state(
    quantization: Any, parts: Iterable[str], folder_of: FolderOf, pictures: TreeBatch
) -> None:
    """A merged backbone has plain floating-point layers, and its hidden states equal those before merging."""
    backbone = adapted(folder_of("qwen2_5_vl"), quantization=quantization, parts=list(parts))
    adapted_states = backbone(pictures)
    base_states = load_backbone(folder_of("qwen2_5_vl"), quantization=quantization).eval()(pictures)
    assert float((adapted_states - base_states).norm()) > 0.01 * float(adapted_states.norm()), (
        "the adapters must change the states"
    )
    assert isinstance(backbone.model, PeftModel)
    merged = merge_lora(backbone.model)
    backbone.model = merged
    torch.testing.assert_close(backbone(pictures), adapted_states, rtol=1e-5, atol=1e-5)
    assert isinstance(merged, PreTrainedModel)
    assert not any(isinstance(module, LoraLayer) or is_quantized(module) for module in merged.modules())
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_merged_backbone_can_be_saved_and_loaded(quantization: Any, folder_of: FolderOf, tmp_path: Path) -> None:
    """The saved files contain no adapters and no quantisation, and every weight is loaded bit for bit."""
    backbone = adapted(folder_of("llama"), quantization=quantization)
    assert isinstance(backbone.model, PeftModel)
    merged = merge_lora(backbone.model)
    merged.save_pretrained(tmp_path / "merged")
    assert "quantization" not in (tmp_path / "merged" / "config.json").read_text()
    reloaded = load_backbone(tmp_path / "merged", complete=True).transformer.state_dict()
    assert reloaded.keys() == merged.state_dict().keys()
    assert all(torch.equal(weight, reloaded[name]) for name, weight in merged.state_dict().items())


def test_parts_without_layers_are_refused(folder_of: FolderOf) -> None:
    """A text-only backbone has no vision tower; the error names the key and the parts."""
    with pytest.raises(ModelError, match=r"model\.lora\.parts is \['vision'\]"):
        add_lora(load_backbone(folder_of("llama")).transformer, rank=4, alpha=8.0, parts=["vision"])


def test_seed_sets_the_initial_weights(folder_of: FolderOf) -> None:
    """The same seed gives the same adapters, and another seed gives others."""
    first, same_seed, other_seed = (
        add_lora(load_backbone(folder_of("llama")).transformer, rank=4, alpha=8.0, seed=seed) for seed in (0, 0, 1)
    )
    name = "base_model.model.layers.0.mlp.up_proj.lora_A.default.weight"
    assert torch.equal(first.get_parameter(name), same_seed.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other_seed.get_parameter(name))


def test_dropout_acts_in_training_only(folder_of: FolderOf) -> None:
    """Hidden states change from pass to pass in training and are constant in evaluation."""
    backbone = adapted(folder_of("llama"), dropout=0.5)
    batch = collate([encoded_group(4, [3, 5])], layout="tree", pad_id=0)
    with torch.no_grad():
        assert torch.equal(backbone(batch), backbone(batch))
        backbone.train()
        assert not torch.equal(backbone(batch), backbone(batch))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_with_adapters_equal_those_of_peft(dropout: float, folder_of: FolderOf) -> None:
    """One product that adds in place gives the values and gradients of peft's own `forward`, with the same dropout, and
    a layer whose adapters are disabled is the layer alone."""
    model = add_lora(load_backbone(folder_of("qwen2")).transformer, rank=4, alpha=12.0, dropout=dropout).train()
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 2 * 7
    torch.manual_seed(0)
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        states = torch.randn(2, 5, layer.in_features)
        upstream = torch.randn(2, 5, layer.out_features)
        results = []
        for forward in (layer, partial(LoraLinear.forward, layer)):
            own = states.clone().requires_grad_()
            torch.manual_seed(1)
            output = forward(own)
            (output * upstream).sum().backward()
            results.append([output.detach(), own.grad, *(factor.weight.grad for factor in factors(layer))])
            for factor in factors(layer):
                factor.weight.grad = None
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            assert torch.equal(layer(states), layer.base_layer(states))


def factors(layer: LoraLinear) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """Return the two factors of the adapter of a layer."""
    return layer.lora_A["default"], layer.lora_B["default"]
