"""A batch whose branches have grown by text that was written after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from basereward.data.tree import TreeBatch


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
