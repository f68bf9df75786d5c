"""Attention over tree rows, compared with one softmax over the whole row and a mask built token by token."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
    sliding_window_overlay,
)

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.attention import tree_attention as tree_attention_module
from basereward.model.attention.tree_attention import (
    MAX_SHARED_TOKENS,
    NO_LIMIT,
    TREE_ATTENTION,
    LayerMask,
    Limit,
    TreePlan,
    branch_mask,
    read_limit,
    register_tree_attention,
    tree_attention,
    tree_mask,
    tree_masks,
)
from basereward.model.backbone import load_backbone
from basereward.model.pooling import Pooling
from basereward.recipe.schema import PoolingName
from tests.helpers.support import gradients

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
Trees = Sequence[tuple[int, ...]]


def visible(trees: Trees, limit: Limit = NO_LIMIT) -> Tensor:
    """Return the mask, bool `(T, T)`.

    A token sees earlier tokens of its group that belong to the prefix or to its own branch, no further back in its own
    sequence than the limit.
    """
    # One tuple per token: group, branch, position in the sequence of prefix and branch.
    tokens = []
    for group, (prefix, *_) in enumerate(trees):
        tokens += [(group, 0, position) for position in range(prefix)]
    for group, (prefix, *branches) in enumerate(trees):
        for branch, size in enumerate(branches, 1):
            tokens += [(group, branch, prefix + position) for position in range(size)]
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for query, (group, branch, position) in enumerate(tokens):
        for key, (other_group, other_branch, other_position) in enumerate(tokens[: query + 1]):
            in_window = limit.window is None or position - other_position < limit.window
            in_chunk = limit.chunk is None or position // limit.chunk == other_position // limit.chunk
            mask[query, key] = group == other_group and other_branch in (0, branch) and in_window and in_chunk
    return mask


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    trees: Trees,
    *,
    scaling: float,
    limit: Limit = NO_LIMIT,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Compute attention with one weight matrix for the whole row in float64."""
    key, value = (states.double().repeat_interleave(HEADS // KEY_HEADS, dim=1) for states in (key, value))
    logits = query.double() @ key.transpose(2, 3) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    exponentials = logits.exp() * visible(trees, limit)
    total = exponentials.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp()[:, None, None]
    return (exponentials / total @ value).transpose(1, 2)


def random_trees(rng: random.Random) -> list[tuple[int, ...]]:
    """Return one to four groups of one to five branches each."""
    return [
        (rng.randint(1, 20), *(rng.randint(1, 9) for _ in range(rng.randint(1, 5)))) for _ in range(rng.randint(1, 4))
    ]


CASES: dict[str, Trees] = {
    **{f"random-{seed}": random_trees(random.Random(seed)) for seed in range(6)},
    "branches in several calls": [(5, 200, 100, 3, 2), (7, 1)],
    "a branch longer than a shared call": [(3, 2, MAX_SHARED_TOKENS + 9, 4)],
    "one token each": [(1, 1)],
}


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("trees", CASES.values(), ids=CASES.keys())
def test_attention_equals_the_reference(trees: Trees, in_pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients equal those of the reference, in two calls for the row and in pieces."""
    if not in_pieces:
        monkeypatch.setattr(tree_attention_module, "CASCADE_DEVICES", ("cpu",))
    torch.manual_seed(0)
    length = sum(map(sum, trees))
    states = [torch.randn(1, heads, length, WIDTH, requires_grad=True) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    plan = TreePlan(trees, device="cpu")
    output, weights = tree_attention(nn.Module(), *states, attention_mask=LayerMask(NO_LIMIT, plan), scaling=0.3)
    expected = reference_attention(*states, trees, scaling=0.3)
    assert weights is None
    assert output.shape == (1, length, HEADS, WIDTH)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(output)
    actual_gradients = torch.autograd.grad(output, states, upstream)
    expected_gradients = torch.autograd.grad(expected, states, upstream.double())
    for actual, reference in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-5)


OPTIONS: dict[str, tuple[Limit, dict[str, Any]]] = {
    "window": (Limit(window=4), {}),
    "window-of-itself": (Limit(window=1), {}),
    "window-longer-than-the-row": (Limit(window=10_000), {}),
    "chunk": (Limit(chunk=4), {}),
    "softcap": (NO_LIMIT, {"softcap": 0.7}),
    "sinks": (NO_LIMIT, {"s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0])}),
    "all": (Limit(window=6, chunk=9), {"softcap": 0.7, "s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0])}),
}


@pytest.mark.parametrize(("limit", "options"), OPTIONS.values(), ids=OPTIONS.keys())
def test_attention_options_equal_the_reference(limit: Limit, options: dict[str, Any]) -> None:
    """Outputs and gradients equal those of the reference.

    Windows and chunks are counted in the sequence of prefix and branch, not in the row.
    """
    trees = [(9, 5, 3, 8), (3, 2)]
    torch.manual_seed(0)
    length = sum(map(sum, trees))
    states = [torch.randn(1, heads, length, WIDTH, requires_grad=True) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    plan = TreePlan(trees, device="cpu")
    output, _ = tree_attention(
        nn.Module(), *states, attention_mask=LayerMask(limit, plan), scaling=0.3, sliding_window=4, **options
    )
    expected = reference_attention(
        *states, trees, scaling=0.3, limit=limit, softcap=options.get("softcap"), sinks=options.get("s_aux")
    )
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(output)
    actual_gradients = torch.autograd.grad(output, states, upstream)
    expected_gradients = torch.autograd.grad(expected, states, upstream.double())
    for actual, reference in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "last_text", "mean"])
@pytest.mark.parametrize(("limit", "options"), [*OPTIONS.values(), (NO_LIMIT, {})], ids=[*OPTIONS, "none"])
def test_restricted_and_cached_attention_equal_the_row(
    limit: Limit, options: dict[str, Any], pooling: PoolingName
) -> None:
    """The layer that computes pooled tokens only, and branches after the cached keys of their prefix, give the outputs
    of the whole row."""
    tree = (9, 5, 3, 8)
    torch.manual_seed(0)
    states = [torch.randn(1, heads, sum(tree), WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    layer: Any = nn.Module()
    layer.layer_idx = 1
    masks = [
        LayerMask(limit, TreePlan([tree], device="cpu", pooling=Pooling(pooling), **plan_options))
        for plan_options in ({}, {"restricted": 1}, {"cached": True})
    ]
    options = options | {"scaling": 0.3}
    full, _ = tree_attention(layer, *states, masks[0], **options)
    restricted, _ = tree_attention(layer, *states, masks[1], **options)
    read = {"last": [13, 16, 24], "last_text": [12, 15, 23], "mean": list(range(9, 25))}[pooling]
    torch.testing.assert_close(restricted[:, read], full[:, read], rtol=1e-5, atol=1e-5)
    query, key, value = states
    cached, _ = tree_attention(layer, query[:, :, 9:], key, value, masks[2], **options)
    torch.testing.assert_close(cached, full[:, 9:], rtol=1e-5, atol=1e-5)


def test_limit_is_read_from_the_mask_function() -> None:
    """The masks that transformers builds for its layer types give their limit; other masks are refused."""
    padding = torch.zeros(1, dtype=torch.long)
    assert read_limit(causal_mask_function) == NO_LIMIT
    assert read_limit(sliding_window_causal_mask_function(4)) == Limit(window=4)
    assert read_limit(chunked_causal_mask_function(8, padding)) == Limit(chunk=8)
    assert read_limit(and_masks(sliding_window_causal_mask_function(4), sliding_window_overlay(3))) == Limit(window=3)
    refused = [
        bidirectional_mask_function,
        sliding_window_bidirectional_mask_function(4),
        or_masks(causal_mask_function, sliding_window_overlay(4)),
        and_masks(causal_mask_function, lambda batch, head, query, key: key != 3),
        sliding_window_overlay(4),
    ]
    for function in refused:
        with pytest.raises(ModelError):
            read_limit(function)


@pytest.mark.parametrize("keyword", ["position_bias", "sinks", "indices", "never_heard_of"])
def test_unsupported_keyword_is_refused(keyword: str) -> None:
    """An attention argument of a family is never dropped silently; None is accepted."""
    states = [torch.randn(1, HEADS, 5, WIDTH) for _ in range(3)]
    mask = LayerMask(NO_LIMIT, TreePlan([(3, 2)], device="cpu"))
    tree_attention(nn.Module(), *states, mask, **{keyword: None})
    with pytest.raises(ModelError, match=keyword):
        tree_attention(nn.Module(), *states, mask, **{keyword: torch.zeros(1)})
    # Plain rows support a position bias.
    if keyword != "position_bias":
        with pytest.raises(ModelError, match=keyword):
            tree_attention(nn.Module(), *states, None, **{keyword: torch.zeros(1)})


def test_missing_or_non_causal_mask_is_refused() -> None:
    """A tree row is never processed with the mask of a plain row, nor with attention to later tokens."""
    states = [torch.randn(1, HEADS, 5, WIDTH) for _ in range(3)]
    plan = TreePlan([(3, 2)], device="cpu")
    with pytest.raises(ModelError, match="Module"):
        tree_attention(nn.Module(), *states, None, rows=plan)
    with pytest.raises(ModelError, match="is_causal"):
        tree_attention(nn.Module(), *states, LayerMask(NO_LIMIT, plan), is_causal=False)


def test_tree_masks_apply_in_their_context_only() -> None:
    """Inside the context a mask is the limit of the layer; outside of it, and in another thread, it is a mask of plain
    rows."""
    size: dict[str, Any] = {"batch_size": 1, "q_length": 4, "kv_length": 4, "allow_is_causal_skip": False}
    size["mask_function"] = sliding_window_causal_mask_function(2)
    plan = TreePlan([(3, 2)], device="cpu")
    with tree_masks(plan), ThreadPoolExecutor() as threads:
        assert tree_mask(**size) == LayerMask(Limit(window=2), plan)
        assert isinstance(threads.submit(tree_mask, **size).result(), Tensor)
    assert isinstance(tree_mask(**size), Tensor)


@pytest.mark.parametrize("seed", range(6))
def test_plan_covers_the_row_in_order(seed: int) -> None:
    """The sizes of the pieces sum to the row, prefixes are whole, and the masks of branches have the matching shape."""
    trees = random_trees(random.Random(seed))
    plan = TreePlan(trees, device="cpu")
    assert sum(plan.sizes) == sum(map(sum, trees))
    prefixes = [piece.tokens for piece in plan.pieces if piece.prefix is None]
    assert prefixes == [tree[0] for tree in trees]
    for piece in plan.pieces:
        if piece.prefix is not None:
            assert piece.mask is not None
            assert piece.mask.shape == (piece.tokens, plan.sizes[piece.prefix] + piece.tokens)


def test_short_branches_share_a_call() -> None:
    """Branches are combined up to `MAX_SHARED_TOKENS` tokens."""
    half = MAX_SHARED_TOKENS // 2
    assert TreePlan([(4, half, half, 1, MAX_SHARED_TOKENS)], device="cpu").sizes == [4, 2 * half, 1, MAX_SHARED_TOKENS]


def test_branch_mask() -> None:
    """The mask of two branches with one and two tokens after a prefix of two."""
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert branch_mask(2, [1, 2]).int().tolist() == expected


def test_attention_is_registered_with_transformers() -> None:
    """The name used to load backbones is registered for this function and for the mask of plain rows."""
    register_tree_attention()
    registered = AttentionInterface()[TREE_ATTENTION]
    # The registered function is wrapped so that torch.compile does not trace into it.
    assert inspect.unwrap(registered) is tree_attention
    assert TREE_ATTENTION in AttentionMaskInterface()


@pytest.mark.parametrize("pooling", ["last", "last_text", "mean"])
def test_model_has_equal_states_in_two_calls_and_in_pieces(
    pooling: PoolingName, folder_of: Callable[[str], Path], pictures: TreeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pooled states and all gradients of a model are equal, with the last layer restricted to what is pooled."""
    backbone = load_backbone(folder_of("qwen2_5_vl")).train()
    results = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(tree_attention_module, "CASCADE_DEVICES", devices)
        states = backbone(pictures, pooling=Pooling(pooling))
        states.square().sum().backward()
        results.append((states.detach(), gradients(backbone)))
    (expected, expected_gradients), (actual, actual_gradients) = results
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in actual_gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4, msg=name)


def test_branches_behind_a_cached_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches of a tree attend to a prefix whose keys and values are in a cache, equally in both ways."""
    torch.manual_seed(0)
    plan = TreePlan([(6, 3, 2)], device="cpu", cached=True)
    states = [torch.randn(1, heads, size, WIDTH) for heads, size in ((HEADS, 5), (KEY_HEADS, 11), (KEY_HEADS, 11))]
    outputs = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(tree_attention_module, "CASCADE_DEVICES", devices)
        outputs.append(tree_attention(nn.Module(), *states, attention_mask=LayerMask(NO_LIMIT, plan), scaling=0.3)[0])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
