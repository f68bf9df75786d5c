"""The restricted last layer: it computes pooled tokens only and gives the same states and gradients."""

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
from tests.helpers.support import encoded_group, fill_adapters, gradients, mixed_groups

FolderOf = Callable[[str], Path]
LAYOUTS = ("tree", "plain")


def batch_of(path: Path, layout: Any) -> TreeBatch:
    """Return a batch of groups with and without images."""
    encoder = load_encoder(path)
    return collate([encoder(group) for group in mixed_groups(vision=True)], layout=layout, pad_id=encoder.pad_id)


def adapted(path: Path, **options: Any) -> Backbone:
    """Return a backbone with non-zero adapters, also in its last layer."""
    backbone = load_backbone(path, **options)
    backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0)
    torch.manual_seed(0)
    fill_adapters(backbone)
    return backbone


def at_ends(hidden: Tensor, batch: TreeBatch) -> Tensor:
    """Select the hidden states of the pooled tokens."""
    return hidden[batch.rows.ends[:, 0], batch.rows.ends[:, 1]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_pooled_states_and_gradients_equal_the_full_layer(
    layout: Any, checkpointing: bool, lora: bool, folder_of: FolderOf
) -> None:
    """States and all gradients equal those of a last layer that computes every token."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, layout)
    load = adapted if lora else load_backbone
    backbone = load(path, gradient_checkpointing=checkpointing).train()
    full = at_ends(backbone.hidden_states(batch), batch)
    upstream = torch.randn_like(full)
    torch.autograd.backward(full, upstream)
    expected = gradients(backbone)
    backbone.zero_grad()
    pooled = backbone(batch)
    torch.testing.assert_close(pooled, full, rtol=1e-5, atol=1e-5)
    torch.autograd.backward(pooled, upstream)
    actual = gradients(backbone)
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].norm() + 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_last_layer_computes_only_keys_and_values_of_other_tokens(layout: Any, folder_of: FolderOf) -> None:
    """The saved operations are exactly those of query, output and feed-forward network for every token that is not
    pooled."""
    backbone = load_backbone(folder_of("qwen2")).eval()
    batch = collate([encoded_group(6, [4, 3]), encoded_group(3, [9, 2])], layout=layout, pad_id=0)
    config = backbone.transformer.config
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    flops_per_token = 2 * (2 * config.hidden_size * width + 3 * config.hidden_size * config.intermediate_size)
    with torch.no_grad(), FlopCounterMode(display=False) as full_counter:
        backbone.hidden_states(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as pooled_counter:
        backbone(batch)
    num_skipped = batch.rows.input_ids.numel() - len(batch.rows.ends)
    linear_flops = [
        sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
        for counter in (full_counter, pooled_counter)
    ]
    assert linear_flops[0] - linear_flops[1] == num_skipped * flops_per_token


def test_restriction_ends_with_its_batch(folder_of: FolderOf) -> None:
    """The states of all tokens are unchanged after a pass that computed pooled tokens only."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, "plain")
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        expected = backbone.hidden_states(batch)
        backbone(batch)
        assert torch.equal(backbone.hidden_states(batch), expected)


def test_last_layer_is_restored_after_a_pass(folder_of: FolderOf) -> None:
    """After a forward pass and after a backward pass with gradient checkpointing, the modules of the last layer behave
    as before."""
    backbone = load_backbone(folder_of("qwen2"), gradient_checkpointing=True)
    layer = backbone.transformer.layers[-1].self_attn.q_proj  # type: ignore[union-attr, index]
    states = torch.eye(layer.in_features)
    expected = layer(states)
    batch = collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0)
    backbone.eval()(batch)
    assert torch.equal(layer(states), expected)
    backbone.train()(batch).sum().backward()
    assert torch.equal(layer(states), expected)


def test_restriction_works_after_adding_and_merging_adapters(folder_of: FolderOf) -> None:
    """The restriction applies to the layer's modules after adapters are added and after they are merged."""
    path = folder_of("qwen2_5_vl")
    batch = batch_of(path, "tree")
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        backbone(batch)
        backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0).eval()
        fill_adapters(backbone)
        with_adapters = at_ends(backbone.hidden_states(batch), batch)
        torch.testing.assert_close(backbone(batch), with_adapters, rtol=1e-5, atol=1e-5)
        backbone.model = merge_lora(backbone.model)
        torch.testing.assert_close(backbone(batch), with_adapters, rtol=1e-4, atol=1e-5)
