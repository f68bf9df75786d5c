"""Batches with longer branches (generated text appended) or shorter ones (target text removed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch


def append_to_branches(batch: TreeBatch, texts: Sequence[Tensor]) -> TreeBatch:
    """Append a text to every branch of a batch in the tree layout.

    Args:
        batch: the batch.
        texts: the tokens `(n,)` for each of the B branches, in order.
    """
    device = batch.input_ids.device
    ids, positions, group, branch = [], [], [], []
    trees, ends = [], []
    column, next_texts = 0, iter(texts)
    length = 0  # of the new row so far
    for index, tree in enumerate(batch.trees):
        sizes = []
        for number, size in enumerate(tree):
            span = slice(column, column + size)
            column += size
            # Segment 0 is the prefix, to which nothing is appended.
            added = next(next_texts).to(device) if number else batch.input_ids[0, :0]
            last = batch.position_ids[..., 0, column - 1 : column]
            ids += [batch.input_ids[0, span], added]
            positions += [
                batch.position_ids[..., 0, span], last + torch.arange(1, len(added) + 1, device=device)
            ]  # fmt: skip
            sizes.append(size + len(added))
            group.append(torch.full((sizes[-1],), index, device=device))
            branch.append(torch.full((sizes[-1],), number, device=device))
            length += sizes[-1]
            if number:
                ends.append((0, length - 1))
        trees.append(tuple(sizes))
    return replace(
        batch,
        input_ids=torch.cat(ids)[None],
        position_ids=torch.cat(positions, dim=-1).unsqueeze(-2),
        group=torch.cat(group)[None],
        branch=torch.cat(branch)[None],
        trees=trees,
        ends=torch.tensor(ends, device=device),
    )


def remove_targets(batch: TreeBatch) -> TreeBatch:
    """Remove the target tokens of a batch in the tree layout: every branch then ends where the head generates."""
    kept = torch.ones_like(batch.input_ids[0], dtype=torch.bool)
    kept[batch.lm_target_positions[:, 1]] = False
    # The number of kept tokens before each column.
    kept_before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)]).tolist()
    trees, ends, column = [], [], 0
    for tree in batch.trees:
        sizes = []
        for number, size in enumerate(tree):
            sizes.append(kept_before[column + size] - kept_before[column])
            column += size
            if number:
                ends.append((0, kept_before[column] - 1))
        trees.append(tuple(sizes))
    return replace(
        batch,
        input_ids=batch.input_ids[:, kept],
        position_ids=batch.position_ids[..., kept],
        group=batch.group[:, kept],
        branch=batch.branch[:, kept],
        trees=trees,
        ends=torch.tensor(ends, device=kept.device),
        lm_target_positions=batch.lm_target_positions[:0],
        lm_target_weights=batch.lm_target_weights[:0],
    )
