"""A batch whose branches have grown by text that was written after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch


def continued(batch: TreeBatch, texts: Sequence[Tensor]) -> TreeBatch:
    """The same groups with every branch longer by its text.

    Args:
        batch: of tree rows.
        texts: `(n,)` tokens for each of the B branches, in order.
    """
    device = batch.input_ids.device
    ids, positions, group, branch = [], [], [], []
    trees, ends = [], []
    at, text = 0, iter(texts)
    length = 0  # of the new row so far
    for index, tree in enumerate(batch.trees):
        sizes = []
        for number, size in enumerate(tree):
            here = slice(at, at + size)
            at += size
            added = next(text).to(device) if number else batch.input_ids[0, :0]
            last = batch.position_ids[..., 0, at - 1 : at]
            ids += [batch.input_ids[0, here], added]
            positions += [
                batch.position_ids[..., 0, here], last + torch.arange(1, len(added) + 1, device=device)
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


def unwritten(batch: TreeBatch) -> TreeBatch:
    """The same groups without what the head is taught to write: every branch ends where it would begin to."""
    kept = torch.ones_like(batch.input_ids[0], dtype=torch.bool)
    kept[batch.lm_target_positions[:, 1]] = False
    before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)]).tolist()
    trees, ends, at = [], [], 0
    for tree in batch.trees:
        sizes = []
        for number, size in enumerate(tree):
            sizes.append(before[at + size] - before[at])
            at += size
            if number:
                ends.append((0, before[at] - 1))
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
