"""Batches with longer branches (generated text appended) or shorter ones (target text removed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch, row_segments
from basereward.data.images.image_dedup import BatchImages


def append_to_branches(batch: TreeBatch, texts: Sequence[Tensor]) -> TreeBatch:
    """Append a text to every branch of a batch in the tree layout.

    Args:
        batch: the batch.
        texts: the tokens `(n,)` for each of the B branches, in order.
    """
    device = batch.rows.input_ids.device
    ids, positions, group, branch = [], [], [], []
    trees: list[list[int]] = [[] for _ in batch.rows.trees]
    ends = []
    starts, shifts = [], []  # the first column of each segment, and by how many columns it moves
    next_texts = iter(texts)
    length = 0  # of the new row so far
    for segment in row_segments(batch.rows.trees):
        starts.append(segment.columns.start)
        shifts.append(length - segment.columns.start)
        # Nothing is appended to a prefix.
        added = next(next_texts).to(device) if segment.branch else batch.rows.input_ids[0, :0]
        old_ids, old_positions = (
            batch.rows.input_ids[0, segment.columns],
            batch.rows.position_ids[..., 0, segment.columns],
        )
        ids += [old_ids, added]
        positions += [old_positions, old_positions[..., -1:] + torch.arange(1, len(added) + 1, device=device)]
        size = len(old_ids) + len(added)
        trees[segment.group].append(size)
        group.append(torch.full((size,), segment.group, device=device))
        branch.append(torch.full((size,), segment.branch, device=device))
        length += size
        if segment.branch:
            ends.append((0, length - 1))
    rows = replace(
        batch.rows,
        input_ids=torch.cat(ids)[None],
        position_ids=torch.cat(positions, dim=-1).unsqueeze(-2),
        group=torch.cat(group)[None],
        branch=torch.cat(branch)[None],
        trees=[tuple(sizes) for sizes in trees],
        ends=torch.tensor(ends, device=device),
    )
    return replace(batch, rows=rows, images=_moved_images(batch.images, starts, shifts))


def _moved_images(images: BatchImages, starts: Sequence[int], shifts: Sequence[int]) -> BatchImages:
    """The images after segments have moved.

    Args:
        images: of a batch in the tree layout.
        starts: the first column of each segment.
        shifts: by how many columns each segment has moved.
    """
    if images.tokens is None:
        return images
    segments = torch.searchsorted(torch.tensor(starts, device=images.tokens.device), images.tokens, right=True) - 1
    return replace(images, tokens=images.tokens + torch.tensor(shifts, device=images.tokens.device)[segments])


def remove_targets(batch: TreeBatch) -> TreeBatch:
    """Remove the target tokens of a batch in the tree layout: every branch then ends where the head generates."""
    kept = torch.ones_like(batch.rows.input_ids[0], dtype=torch.bool)
    kept[batch.targets.positions[:, 1]] = False
    # The number of kept tokens before each column.
    columns_before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
    kept_before = columns_before.tolist()
    trees: list[list[int]] = [[] for _ in batch.rows.trees]
    ends = []
    for segment in row_segments(batch.rows.trees):
        first, last = kept_before[segment.columns.start], kept_before[segment.columns.stop]
        trees[segment.group].append(last - first)
        if segment.branch:
            ends.append((0, last - 1))
    rows = replace(
        batch.rows,
        input_ids=batch.rows.input_ids[:, kept],
        position_ids=batch.rows.position_ids[..., kept],
        group=batch.rows.group[:, kept],
        branch=batch.rows.branch[:, kept],
        trees=[tuple(sizes) for sizes in trees],
        ends=torch.tensor(ends, device=kept.device),
    )
    targets = replace(batch.targets, positions=batch.targets.positions[:0], weights=batch.targets.weights[:0])
    images = batch.images
    if images.tokens is not None:
        images = replace(images, tokens=columns_before[images.tokens])
    return replace(batch, rows=rows, targets=targets, images=images)
