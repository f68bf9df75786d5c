"""Lays encoded groups out in the rows of a batch. For the shapes see `tree_batch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from basereward.data.batching.loss_units import group_counts
from basereward.data.batching.tree_batch import (
    PADDING,
    LanguageTargets,
    Layout,
    PreferencePairs,
    TokenRows,
    TreeBatch,
    row_segments,
)
from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_dedup import deduplicate_images, placed_images
from basereward.data.schema.group import Preference


@dataclass(frozen=True, slots=True)
class _Row:
    """One row before padding; `ends` are the columns of the last tokens of its branches."""

    ids: Tensor  # (T,)
    positions: Tensor  # (3, T) or (T,)
    group: Tensor  # (T,)
    branch: Tensor  # (T,)
    ends: list[int]


def collate(groups: Sequence[EncodedGroup], *, layout: Layout, pad_id: int) -> TreeBatch:
    """Lay groups out in rows. Equal images, in one group or in several, are included once.

    Args:
        groups: G encoded groups.
        layout: `tree` puts all groups in one row; `plain` gives every branch a row, padded on the right.
        pad_id: the token id of the padding.
    """
    rows = _token_rows(groups, layout, pad_id=pad_id)
    placed = [placed_images(group, layout) for group in groups]
    responses = [len(group.response_lengths) for group in groups]
    lengths: list[int] = []
    for group in groups:
        lengths += group.response_lengths
    return TreeBatch(
        rows=rows,
        preferences=preference_pairs(zip((group.preferences for group in groups), responses, strict=True)),
        ids=[group.id for group in groups],
        sources=[group.source for group in groups],
        responses=responses,
        lengths=torch.tensor(lengths),
        images=replace(deduplicate_images(groups, placed), tokens=_visual_tokens(groups, rows)),
        targets=_language_targets(groups, rows.ends),
    )


def _visual_tokens(groups: Sequence[EncodedGroup], rows: TokenRows) -> Tensor | None:
    """The tokens of images among the flattened tokens of the rows, `(V,)`, in the order of `placed_images`."""
    length = rows.input_ids.shape[1]
    starts = _tree_starts(rows.trees) if rows.layout == "tree" else _plain_starts(groups, length)
    tokens: list[Tensor] = []
    for group, starts_of_group in zip(groups, starts, strict=True):
        for segment, start in starts_of_group:
            if segment == 0 and group.visual_tokens is not None:
                tokens.append(group.visual_tokens + start)
            elif segment and group.branch_images:
                tokens.append(group.branch_images[segment - 1].tokens + start)
    return torch.cat(tokens) if tokens else None


def _tree_starts(trees: Sequence[tuple[int, ...]]) -> list[list[tuple[int, int]]]:
    """For each group its segments, 0 for the prefix and k >= 1 for the k-th branch, each with its first token."""
    starts: list[list[tuple[int, int]]] = [[] for _ in trees]
    for segment in row_segments(trees):
        starts[segment.group].append((segment.branch, segment.columns.start))
    return starts


def _plain_starts(groups: Sequence[EncodedGroup], length: int) -> list[list[tuple[int, int]]]:
    """As `_tree_starts`, for rows of `length` tokens, each of which has the prefix and one branch."""
    starts: list[list[tuple[int, int]]] = []
    row = 0
    for group in groups:
        of_group: list[tuple[int, int]] = []
        for number in range(1, len(group.branches) + 1):
            of_group += [(0, row * length), (number, row * length + len(group.prefix))]
            row += 1
        starts.append(of_group)
    return starts


def _token_rows(groups: Sequence[EncodedGroup], layout: Layout, *, pad_id: int) -> TokenRows:
    rows: list[_Row] = []
    trees: list[tuple[int, ...]] = []
    for index, group in enumerate(groups):
        rows += _rows(group, index, layout)
        trees += _trees(group, layout)
    # A tree row has no padding, so that all groups of a batch fit into one.
    if layout == "tree":
        rows = [_joined(rows, trees)]
    return TokenRows(
        layout=layout,
        input_ids=pad_sequence([row.ids for row in rows], batch_first=True, padding_value=pad_id),
        position_ids=_pad_positions([row.positions for row in rows]),
        trees=trees,
        group=pad_sequence([row.group for row in rows], True, PADDING),
        branch=pad_sequence([row.branch for row in rows], True, PADDING),
        ends=_end_places(rows),
    )


def _end_places(rows: Sequence[_Row]) -> Tensor:
    """Row and column of the last token of each branch, `(B, 2)`."""
    places = []
    for row_index, row in enumerate(rows):
        places += [(row_index, column) for column in row.ends]
    return torch.tensor(places)


def _compared(groups: Sequence[EncodedGroup]) -> Tensor:
    """The two responses that each branch compares, `(B, 2)`; empty if branches do not compare two responses."""
    pairs, first = [], 0
    for group in groups:
        for target in group.branch_targets:
            # Branches of other heads are about one response, or about none.
            if len(target.compared_responses) == 2:
                pairs.append((first + target.compared_responses[0], first + target.compared_responses[1]))
        first += len(group.response_lengths)
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _language_targets(groups: Sequence[EncodedGroup], ends: Tensor) -> LanguageTargets:
    """The target tokens, which are the last ones of each branch.

    Args:
        groups: G encoded groups.
        ends: `(B, 2)`, row and column of the last token of each branch.
    """
    places: list[tuple[int, int]] = []
    weights: list[float] = []
    branch_ends = iter(ends.tolist())
    for group in groups:
        # Every group counts equally, so that a step's loss does not depend on its division into micro-batches.
        group_tokens = sum(target.num_target_tokens for target in group.branch_targets)
        for target in group.branch_targets:
            row, end = next(branch_ends)
            places += [(row, end - back) for back in range(target.num_target_tokens)]
            weights += [target.weight / (len(groups) * group_tokens or 1)] * target.num_target_tokens
    return LanguageTargets(
        positions=torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
        weights=torch.tensor(weights, dtype=torch.float32),
        compared=_compared(groups),
    )


def _rows(group: EncodedGroup, index: int, layout: Layout) -> Iterator[_Row]:
    """Lay a group out: one row with all its branches (tree), or one row per branch (plain)."""
    prefix = len(group.prefix)
    # With images, the next position is not the number of tokens: an image advances it by its longer side.
    start = int(group.positions.max()) + 1
    numbers = range(len(group.branches))
    bundles = [[number] for number in numbers] if layout == "plain" else [list(numbers)]
    for bundle in bundles:
        lengths = [len(group.branches[number]) for number in bundle]
        ends = (torch.tensor(lengths).cumsum(0) + prefix - 1).tolist()
        branch_positions = torch.cat([_branch_positions(group, number) for number in bundle], dim=-1) + start
        ids = torch.cat([group.prefix, *(group.branches[number] for number in bundle)])
        yield _Row(
            ids=ids,
            positions=torch.cat([group.positions, branch_positions], dim=-1),
            group=torch.full_like(ids, index),
            branch=torch.arange(len(bundle) + 1).repeat_interleave(torch.tensor([prefix, *lengths])),
            ends=ends,
        )


def _branch_positions(group: EncodedGroup, number: int) -> Tensor:
    """The positions of a branch's tokens, counted from its start; `(3, L)` or `(L,)`."""
    if group.branch_images:
        return group.branch_images[number].positions
    # Text has the same position on all three axes, so its positions are expanded to (3, L) where needed.
    return torch.arange(len(group.branches[number])).expand(*group.positions.shape[:-1], -1)


def _joined(rows: Sequence[_Row], trees: Sequence[tuple[int, ...]]) -> _Row:
    """Join the rows of groups to one tree row: all prefixes, then all branches.

    Positions restart in every group, because no token attends to another group.
    """
    prefixes = [tree[0] for tree in trees]

    def joined(values: Sequence[Tensor]) -> Tensor:
        before = [value[..., :size] for value, size in zip(values, prefixes, strict=True)]
        after = [value[..., size:] for value, size in zip(values, prefixes, strict=True)]
        return torch.cat([*before, *after], dim=-1)

    return _Row(
        ids=joined([row.ids for row in rows]),
        positions=joined([row.positions for row in rows]),
        group=joined([row.group for row in rows]),
        branch=joined([row.branch for row in rows]),
        ends=[segment.columns.stop - 1 for segment in row_segments(trees) if segment.branch],
    )


def _trees(group: EncodedGroup, layout: Layout) -> list[tuple[int, ...]]:
    """The entries of a group in `TokenRows.trees`."""
    prefix, branches = len(group.prefix), [len(branch) for branch in group.branches]
    return [(prefix, *branches)] if layout == "tree" else [(prefix, size) for size in branches]


def _pad_positions(positions: Sequence[Tensor]) -> Tensor:
    """Pad positions of `(3, T)` or `(T,)` per row to `(3, R, T)` or `(R, T)`."""
    padded = pad_sequence([p.movedim(-1, 0) for p in positions], batch_first=True)  # (R, T, 3) or (R, T)
    return padded.movedim(-1, 0) if padded.ndim == 3 else padded


def preference_pairs(groups: Iterable[tuple[Sequence[Preference], int]]) -> PreferencePairs:
    """Collect the preferences of a batch.

    Args:
        groups: for each group, its preferences and the number of its responses.

    >>> pairs = preference_pairs([([Preference(0, 1)], 2), ([Preference(1, 0)], 2)])
    >>> pairs.winner.tolist(), pairs.loser.tolist(), pairs.group.tolist()
    ([0, 3], [1, 2], [0, 1])
    """
    winner, loser, weight, margin, tie, of_group = [], [], [], [], [], []
    counts = []
    first = 0
    for index, (preferences, responses) in enumerate(groups):
        for preference in preferences:
            winner.append(first + preference.winner)
            loser.append(first + preference.loser)
            weight.append(preference.weight)
            margin.append(float("nan") if preference.margin is None else preference.margin)
            tie.append(preference.tie)
            of_group.append(index)
        counts.append(group_counts(preferences))
        first += responses
    return PreferencePairs(
        winner=torch.tensor(winner, dtype=torch.int64),
        loser=torch.tensor(loser, dtype=torch.int64),
        weight=torch.tensor(weight, dtype=torch.float32),
        margin=torch.tensor(margin, dtype=torch.float32),
        tie=torch.tensor(tie, dtype=torch.bool),
        group=torch.tensor(of_group, dtype=torch.int64),
        counts=tuple(counts),
    )
