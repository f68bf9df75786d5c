"""The last layer works for pooled tokens alone: the same numbers for less work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.lora import add_lora, merge_lora
from tests.helpers.support import encoded_group, gradients, mixed_groups

FolderOf = Callable[[str], Path]
LAYOUTS = ("tree", "plain")


def batch_of(path: Path, layout: Any) -> TreeBatch:
    """Groups with and without pictures."""
    encoder = load_encoder(path)
    return collate([encoder(each) for each in mixed_groups(vision=True)], layout=layout, pad_id=encoder.pad_id)


def adapted(path: Path, **options: Any) -> Backbone:
    """With adapters that do something, those of the last layer too."""
    backbone = load_backbone(path, **options)
    backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0)
    torch.manual_seed(0)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return backbone


def at_ends(hidden: Tensor, batch: TreeBatch) -> Tensor:
    """Hidden states of the pooled tokens out of those of all."""
    return hidden[batch.rows.ends[:, 0], batch.rows.ends[:, 1]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_pooled_states_and_gradients_are_those_of_the_whole_layer(
    layout: Any, checkpointing: bool, lora: bool, folder_of: FolderOf
) -> None:
    """They equal what the layer makes when it works for every token, for every weight."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, layout)
    make = adapted if lora else load_backbone
    backbone = make(path, gradient_checkpointing=checkpointing).train()
    whole = at_ends(backbone.hidden_states(batch), batch)
    upstream = torch.randn_like(whole)
    torch.autograd.backward(whole, upstream)
    expected = gradients(backbone)
    backbone.zero_grad()
    pooled = backbone(batch)
    torch.testing.assert_close(pooled, whole, rtol=1e-5, atol=1e-5)
    torch.autograd.backward(pooled, upstream)
    found = gradients(backbone)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].norm() + 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rest_of_the_row_costs_the_last_layer_its_keys_and_values_alone(layout: Any, folder_of: FolderOf) -> None:
    """The work saved is that of the query, the output and the feed-forward network of every token that is not pooled,
    to the multiplication."""
    backbone = load_backbone(folder_of("qwen2")).eval()
    batch = collate([encoded_group(6, [4, 3]), encoded_group(3, [9, 2])], layout=layout, pad_id=0)
    config = backbone.transformer.config
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    a_token = 2 * (2 * config.hidden_size * width + 3 * config.hidden_size * config.intermediate_size)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        backbone.hidden_states(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as pooled:
        backbone(batch)
    spared = batch.rows.input_ids.numel() - len(batch.rows.ends)
    linear = [
        sum(n for op, n in each.get_flop_counts()["Global"].items() if "mm" in str(op)) for each in (whole, pooled)
    ]
    assert linear[0] - linear[1] == spared * a_token


def test_all_states_are_right_again_after_pooled_ones(folder_of: FolderOf) -> None:
    """The restriction ends with its batch: the states of all tokens do not depend on what was asked before."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, "plain")
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        before = backbone.hidden_states(batch)
        backbone(batch)
        assert torch.equal(backbone.hidden_states(batch), before)


def test_nothing_of_a_pass_is_left_behind(folder_of: FolderOf) -> None:
    """After a forward pass, and after a backward pass that computed layers again, the last layer's modules are those of
    any transformer."""
    backbone = load_backbone(folder_of("qwen2"), gradient_checkpointing=True)
    layer = backbone.transformer.layers[-1].self_attn.q_proj  # type: ignore[union-attr, index]
    states = torch.eye(layer.in_features)
    expected = layer(states)
    batch = collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0)
    backbone.eval()(batch)
    assert torch.equal(layer(states), expected)
    backbone.train()(batch).sum().backward()
    assert torch.equal(layer(states), expected)


def test_adapters_that_come_and_go_are_restricted_too(folder_of: FolderOf) -> None:
    """The layer's modules are found again once adapters took their place, and once they were folded in."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, "tree")
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        backbone(batch)
        backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0).eval()
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        with_adapters = at_ends(backbone.hidden_states(batch), batch)
        torch.testing.assert_close(backbone(batch), with_adapters, rtol=1e-5, atol=1e-5)
        backbone.model = merge_lora(backbone.model)
        torch.testing.assert_close(backbone(batch), with_adapters, rtol=1e-4, atol=1e-5)
