"""The mask of tree rows against its definition, token by token."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from basereward.data.tree import PADDING
from basereward.model.attention import TREE_ATTENTION, tree_mask


def random_rows(rng: random.Random, *, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows of one to three groups of one to four branches each, with padding up to `length`."""
    groups, branches = [], []
    for _ in range(rows):
        group: list[int] = []
        branch: list[int] = []
        for index in range(rng.randint(1, 3)):
            for k in range(rng.randint(2, 5)):
                size = rng.randint(1, 4)
                group += [index] * size
                branch += [k] * size
        group, branch = group[: length - 2], branch[: length - 2]
        groups.append(group + [PADDING] * (length - len(group)))
        branches.append(branch + [PADDING] * (length - len(branch)))
    return torch.tensor(groups), torch.tensor(branches)


@pytest.mark.parametrize("seed", range(5))
def test_a_token_sees_its_prefix_and_its_own_branch(seed: int) -> None:
    """On random trees, a token sees exactly what is not later, of its group, and of the prefix or its own branch."""
    group, branch = random_rows(random.Random(seed), rows=3, length=24)
    mask = tree_mask(group, branch)
    assert mask.shape == (3, 1, 24, 24)
    for row in range(3):
        for i in range(24):
            for j in range(24):
                same = group[row, i] == group[row, j]
                reads = branch[row, j] == 0 or branch[row, i] == branch[row, j]
                assert bool(mask[row, 0, i, j]) == bool(j <= i and same and reads)


def test_padding_and_tokens_do_not_see_each_other() -> None:
    """No token sees padding, padding sees no token, and yet no row of the softmax is empty."""
    group, branch = random_rows(random.Random(9), rows=4, length=24)
    mask = tree_mask(group, branch)[:, 0]
    padding = group == PADDING
    crossing = padding[:, :, None] != padding[:, None, :]
    assert not bool((mask & crossing).any())
    assert bool(mask.any(-1).all())


def test_transformers_knows_the_attention_by_its_name() -> None:
    """The name that backbones are loaded with stands for a kernel and for a way of making masks."""
    assert TREE_ATTENTION in AttentionInterface()
    assert TREE_ATTENTION in AttentionMaskInterface()
