"""Attention over tree rows against one softmax over the whole row, masked token by token as the definition says."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from basereward.model.attention import SHARED_CALL, TREE_ATTENTION, TreePlan, branch_mask, tree_attention

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
Trees = Sequence[tuple[int, ...]]


def visible(trees: Trees) -> Tensor:
    """bool, shape `(T, T)`: a token sees what is not later, of its group, and of the prefix or its own branch."""
    place = [(g, b) for g, tree in enumerate(trees) for b, size in enumerate(tree) for _ in range(size)]
    rows = [
        [j <= i and group == of and branch in (0, own) for j, (group, branch) in enumerate(place)]
        for i, (of, own) in enumerate(place)
    ]
    return torch.tensor(rows)


def by_definition(query: Tensor, key: Tensor, value: Tensor, trees: Trees, *, scaling: float) -> Tensor:
    """Attention with one matrix of weights for the whole row, in float64."""
    key, value = (states.double().repeat_interleave(HEADS // KEY_HEADS, dim=1) for states in (key, value))
    weights = (query.double() @ key.transpose(2, 3) * scaling).masked_fill(~visible(trees), float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


def random_trees(rng: random.Random) -> list[tuple[int, ...]]:
    """One to four groups of one to five branches each."""
    return [
        (rng.randint(1, 20), *(rng.randint(1, 9) for _ in range(rng.randint(1, 5)))) for _ in range(rng.randint(1, 4))
    ]


CASES: dict[str, Trees] = {
    **{f"random-{seed}": random_trees(random.Random(seed)) for seed in range(6)},
    "branches in several calls": [(5, 200, 100, 3, 2), (7, 1)],
    "a branch longer than a shared call": [(3, 2, SHARED_CALL + 9, 4)],
    "one token each": [(1, 1)],
}


@pytest.mark.parametrize("trees", CASES.values(), ids=CASES.keys())
def test_a_token_sees_its_prefix_and_its_own_branch(trees: Trees) -> None:
    """Outputs and gradients are those of the definition."""
    torch.manual_seed(0)
    length = sum(map(sum, trees))
    states = [torch.randn(1, heads, length, WIDTH, requires_grad=True) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    plan = TreePlan(trees, device="cpu")
    output, weights = tree_attention(nn.Module(), *states, attention_mask=None, tree=plan, scaling=0.3)
    expected = by_definition(*states, trees, scaling=0.3)
    assert weights is None
    assert output.shape == (1, length, HEADS, WIDTH)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, states, upstream)
    wanted = torch.autograd.grad(expected, states, upstream.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_the_calls_of_a_plan_cover_the_row_in_its_order(seed: int) -> None:
    """The pieces add up to the row, prefixes are whole, and no call of short branches is longer than it may be."""
    trees = random_trees(random.Random(seed))
    plan = TreePlan(trees, device="cpu")
    assert sum(plan.sizes) == sum(map(sum, trees))
    prefixes = [piece.tokens for piece in plan.pieces if piece.prefix is None]
    assert prefixes == [tree[0] for tree in trees]
    for piece in plan.pieces:
        if piece.prefix is not None:
            assert piece.mask is not None
            assert piece.mask.shape == (piece.tokens, plan.sizes[piece.prefix] + piece.tokens)


def test_short_branches_share_a_call_and_long_ones_do_not() -> None:
    """Branches are put together as long as they stay within `SHARED_CALL` tokens."""
    half = SHARED_CALL // 2
    assert TreePlan([(4, half, half, 1, SHARED_CALL)], device="cpu").sizes == [4, 2 * half, 1, SHARED_CALL]


def test_a_mask_is_no_larger_than_its_branches_need() -> None:
    """Two branches of one and two tokens, after a prefix of two."""
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert branch_mask(2, [1, 2]).int().tolist() == expected


def test_transformers_knows_the_attention_by_its_name() -> None:
    """The name that backbones are loaded with stands for this function, and for a way of masking plain rows."""
    assert AttentionInterface()[TREE_ATTENTION] is tree_attention
    assert TREE_ATTENTION in AttentionMaskInterface()
