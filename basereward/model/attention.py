"""Attention over tree rows, plugged in through transformers' attention interface.

Its cost follows the tokens that may see each other: one call over every prefix, and one over every few branches, which
see their prefix and themselves. No mask of the whole row is ever made, so groups in one row cost no more than apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from basereward.model.pooling import LAST, Pooling

TREE_ATTENTION = "basereward_tree"

# Short branches of one prefix share a call, each blind to the others; beyond so many tokens the pairs that see nothing
# of each other cost more than another call.
SHARED_CALL = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of the row that attend in one call."""

    tokens: int
    prefix: int | None = None  # the piece that they see whole; None: they are a prefix, and see what is not later
    mask: Tensor | None = None  # (tokens, tokens of the prefix + tokens), true where one sees the other


@dataclass(frozen=True, slots=True)
class Read:
    """The tokens that are read of the branches of one tree, one of each, which attend in one call."""

    row: range  # the tree in the row
    columns: Tensor  # (K,), counted from the tree's first token
    mask: Tensor  # (K, tokens of the tree), true where one sees the other


class TreePlan:
    """The calls that attention over a tree row takes, in the order of its tokens.

    Args:
        trees: for every group in the row the tokens of its prefix, then of each of its branches.
        device: where the row is.
        restricted: index of the layer that attends for the pooled tokens alone; None: no layer does.
        pooling: which they are.
    """

    def __init__(
        self,
        trees: Sequence[tuple[int, ...]],
        *,
        device: torch.device | str,
        restricted: int | None = None,
        pooling: Pooling = LAST,
    ) -> None:
        self.trees = list(trees)
        self.device = device
        self.restricted = restricted
        self.pooling = pooling
        self.pieces: list[Piece] = []
        for prefix, *branches in trees:
            at = len(self.pieces)
            self.pieces.append(Piece(prefix))
            for shared in _shared(branches):
                mask = branch_mask(prefix, shared, device=device)
                self.pieces.append(Piece(len(mask), at, mask))
        self.sizes = [piece.tokens for piece in self.pieces]

    @cached_property
    def read(self) -> list[Read]:
        """The tokens that are read, tree by tree, where it is one of every branch."""
        read, first = [], 0
        for prefix, *branches in self.trees:
            tokens = [self.pooling.read(size)[0] for size in branches]
            row = range(first, first + prefix + sum(branches))
            read.append(Read(row, *_read_mask(prefix, branches, tokens, self.device)))
            first = row.stop
        return read


def branch_mask(prefix: int, branches: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """Who sees whom when branches of one prefix attend together.

    Args:
        prefix: its tokens.
        branches: tokens of each.

    Returns:
        bool, shape `(S, prefix + S)` with S the tokens of all the branches.

    >>> branch_mask(1, [1, 2]).int()
    tensor([[1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 1, 1]], dtype=torch.int32)
    """
    blocks = [torch.ones(size, size, dtype=torch.bool).tril() for size in branches]
    own = torch.block_diag(*blocks).bool()  # type: ignore[no-untyped-call]
    return torch.cat([own.new_ones(len(own), prefix), own], dim=1).to(device, non_blocking=True)


def _read_mask(
    prefix: int, branches: Sequence[int], tokens: Sequence[int], device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Where a token of every branch, counted from the branch's first, is in the tree, `(K,)`, and what it sees there.

    >>> columns, mask = _read_mask(1, [1, 3], [0, 1], "cpu")
    >>> columns.tolist(), mask.int().tolist()
    ([1, 3], [[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    """
    sizes = torch.tensor(branches)
    columns = sizes.cumsum(0) - sizes + torch.tensor(tokens)
    own = torch.repeat_interleave(torch.eye(len(branches), dtype=torch.bool), sizes, dim=1)
    own &= torch.arange(sum(branches)) <= columns[:, None]
    mask = torch.cat([own.new_ones(len(branches), prefix), own], dim=1)
    return (columns + prefix).to(device, non_blocking=True), mask.to(device, non_blocking=True)


def _shared(branches: Sequence[int]) -> Iterator[list[int]]:
    """Branches, in order, by the call that they share."""
    together: list[int] = []
    for size in branches:
        if together and sum(together) + size > SHARED_CALL:
            yield together
            together = []
        together.append(size)
    if together:
        yield together


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: TreePlan | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: the layer.
        query: shape `(1, H, T, D)`; with `tree` None any number of rows.
        key, value: the same, with fewer heads where queries share them.
        attention_mask: of plain rows; tree rows have none.
        tree: how the row is made of prefixes and branches; None for plain rows.

    Returns:
        shape `(1, T, H, D)`, and None for the weights, which are never made.
    """
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    restricted = tree.restricted is not None and tree.restricted == getattr(module, "layer_idx", None)
    if restricted and not tree.pooling.whole:
        return _attend_where_read(query, key, value, tree, dropout=dropout, scaling=scaling), None
    # split, not slices: its gradient is one concatenation, that of every slice would be as long as the row
    queries, keys, values = (torch.split(states, tree.sizes, dim=2) for states in (query, key, value))
    outputs = []
    for index, piece in enumerate(tree.pieces):
        seen, read = keys[index], values[index]
        if restricted and piece.prefix is None:
            outputs.append(torch.zeros_like(queries[index]))  # nothing of a prefix is read
            continue
        if piece.prefix is not None:
            seen, read = torch.cat([keys[piece.prefix], seen], dim=2), torch.cat([values[piece.prefix], read], dim=2)
        outputs.append(
            scaled_dot_product_attention(
                queries[index],
                seen,
                read,
                attn_mask=piece.mask,
                dropout_p=dropout,
                scale=scaling,
                is_causal=piece.prefix is None,
                enable_gqa=True,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend_where_read(
    query: Tensor, key: Tensor, value: Tensor, tree: TreePlan, *, dropout: float, scaling: float | None
) -> Tensor:
    """Attention of the one token that is read of every branch, `(1, T, H, D)`; zero for all others."""
    sizes = [len(each.row) for each in tree.read]
    trees = zip(*(torch.split(states, sizes, dim=2) for states in (query, key, value)), tree.read, strict=True)
    outputs = []
    for asked, seen, values, read in trees:
        found = scaled_dot_product_attention(
            asked.index_select(2, read.columns),
            seen,
            values,
            attn_mask=read.mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=True,
        )
        outputs.append(found.new_zeros(asked.shape).index_copy(2, read.columns, found))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(TREE_ATTENTION, tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
