"""Batches of groups as rows of tokens.

In the tree layout one row holds all groups without padding, each as `[prefix][branch 1]...[branch K]`. In the plain
layout each branch is a row of its own, `[prefix][branch]`, padded on the right.

Shapes:
    R rows of T tokens; G groups; B branches; K responses of all groups together; P preferences; N image patches;
    n images to encode; m image places in the rows; W target tokens of a generative head; D channels.

A branch is a response, so B = K, except with generative heads, whose branch templates may make other branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from basereward.data.batching.step_totals import StepTotals
from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_dedup import distinct
from basereward.data.images.pixels import Pixels
from basereward.data.images.vision_features import Features
from basereward.data.schema.group import Preference, RejectedRow
from basereward.data.streaming.stream import StreamPosition

Layout = Literal["tree", "plain"]
PADDING = -1  # value of `group` and `branch` at padding tokens


def _no_pairs() -> Tensor:
    return torch.empty(0, 2, dtype=torch.int64)


@dataclass
class TreeBatch:
    """Groups laid out in rows of tokens.

    A token attends to a token if both belong to the same group, the other is not later, and the other belongs to the
    prefix or to the same branch. The positions of each branch continue those of the prefix.

    Attributes:
        layout: `tree` or `plain`; see the module's docstring.
        input_ids: `(R, T)` int64, token ids.
        position_ids: `(3, R, T)` int64 for multimodal rotary positions (time, height, width), else `(R, T)`.
        trees: for each group (tree) or row (plain), the number of tokens of its prefix and of each of its branches.
        group: `(R, T)` int64, the index of the token's group among the G groups, or `PADDING`.
        branch: `(R, T)` int64, 0 in a prefix, k >= 1 in the k-th branch of the row's group, or `PADDING`.
        ends: `(B, 2)` int64, row and column of the last token of each branch, where a scalar head reads.
        pixels: N patches of the n images to encode, each distinct image once; None if there are none.
        image_grid_thw: `(n, 3)` int64, patches of each of these images in time, height and width.
        winner: `(P,)` int64, the preferred response of each preference, as an index among the K responses.
        loser: `(P,)` int64, the other response, as an index among the K responses.
        weight: `(P,)` float32, the factor of each preference in the loss.
        margin: `(P,)` float32, how much better the winner is; NaN if unknown.
        tie: `(P,)` bool, whether neither response is better.
        preference_group: `(P,)` int64, the index of the preference's group among the G groups.
        lengths: `(K,)` int64, tokens of each response without its end-of-turn token.
        ids: the ids of the G groups.
        sources: the names of the sources of the G groups.
        image_places: for each of the m image places, in the order of the rows, the index of its image: 0 to n - 1 are
            the images to encode, n and above those in `features`.
        image_keys: for each of the n images to encode, the key to store its features under; empty without a store.
        features: features of images that need not be encoded; None if there are none.
        pooled: `(B, D)` float32, pooled states that were computed before. The batch then has no rows.
        rejected: rows of a stream that were rejected since the previous batch.
        stream_position: how far the stream has been read for this batch; None without streaming.
        step: totals of the optimizer step of a training batch; None for batches that know no step.
        responses: for each of the G groups, the number of its responses.
        about: `(B, 2)` int64, for branches that compare two responses, their indices among the K, in the order
            in which they are shown; empty for other heads.
        lm_target_positions: `(W, 2)` int64, row and column of the tokens that a generative head learns to write.
        lm_target_weights: `(W,)` float32, the weight of each of these tokens in the language loss. The weights of a
            group add up to 1 / G (times the weight of its branches), so that every group counts equally.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    trees: list[tuple[int, ...]]
    group: Tensor
    branch: Tensor
    ends: Tensor
    pixels: Pixels | None
    image_grid_thw: Tensor | None
    winner: Tensor
    loser: Tensor
    weight: Tensor
    margin: Tensor
    tie: Tensor
    preference_group: Tensor
    lengths: Tensor
    ids: list[str]
    sources: list[str]
    image_places: tuple[int, ...] = ()
    image_keys: tuple[str, ...] = ()
    features: Features | None = None
    pooled: Tensor | None = None
    rejected: list[RejectedRow] = field(default_factory=list)
    stream_position: StreamPosition | None = None
    step: StepTotals | None = None
    responses: list[int] = field(default_factory=list)
    about: Tensor = field(default_factory=_no_pairs)
    lm_target_positions: Tensor = field(default_factory=_no_pairs)
    lm_target_weights: Tensor = field(default_factory=lambda: torch.empty(0))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """Return the batch with all tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TreeBatch:
        """Return the batch in page-locked memory, from which copies to a GPU are faster."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> TreeBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        changed["pixels"] = self.pixels.map(change) if self.pixels else None
        changed["features"] = self.features.map(change) if self.features else None
        return replace(self, **changed)

    def __getstate__(self) -> dict[str, Any]:
        # Between processes torch passes every tensor as a shared file of its own, which takes longer than copying a
        # small tensor as an array. Only pixels and features are large; they stay tensors.
        state = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            state[entry.name] = value.numpy() if isinstance(value, Tensor) else value
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    @property
    def num_groups(self) -> int:
        return len(self.ids)


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
    rows: list[_Row] = []
    trees: list[tuple[int, ...]] = []
    for index, group in enumerate(groups):
        rows += _rows(group, index, layout)
        trees += _trees(group, layout)
    if layout == "tree":
        rows = [_joined(rows)]
    ends = _end_places(rows)
    # A plain row repeats the prefix, and with it the images, for every branch.
    images = distinct(groups, [len(group.branches) if layout == "plain" else 1 for group in groups])
    return TreeBatch(
        layout=layout,
        input_ids=pad_sequence([row.ids for row in rows], batch_first=True, padding_value=pad_id),
        position_ids=_pad_positions([row.positions for row in rows]),
        trees=trees,
        group=pad_sequence([row.group for row in rows], True, PADDING),
        branch=pad_sequence([row.branch for row in rows], True, PADDING),
        ends=ends,
        pixels=images.pixels,
        image_grid_thw=images.grids,
        image_places=images.places,
        image_keys=images.keys,
        features=images.features,
        lengths=torch.tensor(list(chain.from_iterable(group.response_lengths for group in groups))),
        responses=[len(group.response_lengths) for group in groups],
        about=_about(groups),
        **_lm_targets(groups, ends),
        ids=[group.id for group in groups],
        sources=[group.source for group in groups],
        **preference_tensors([(group.preferences, len(group.response_lengths)) for group in groups]),
    )


def _end_places(rows: Sequence[_Row]) -> Tensor:
    """Row and column of the last token of each branch, `(B, 2)`."""
    places = []
    for row_index, row in enumerate(rows):
        places += [(row_index, column) for column in row.ends]
    return torch.tensor(places)


def _about(groups: Sequence[EncodedGroup]) -> Tensor:
    """The two responses that each branch compares, `(B, 2)`; empty if branches do not compare two responses."""
    pairs, first = [], 0
    for group in groups:
        for target in group.branch_targets:
            if len(target.compared_responses) == 2:
                pairs.append((first + target.compared_responses[0], first + target.compared_responses[1]))
        first += len(group.response_lengths)
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _lm_targets(groups: Sequence[EncodedGroup], ends: Tensor) -> dict[str, Any]:
    """The fields `lm_target_positions` and `lm_target_weights`: the target tokens are the last ones of each branch.

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
    return {
        "lm_target_positions": torch.tensor(places, dtype=torch.int64).reshape(-1, 2),
        "lm_target_weights": torch.tensor(weights, dtype=torch.float32),
    }


def _rows(group: EncodedGroup, index: int, layout: Layout) -> Iterable[_Row]:
    """Lay a group out: one row with all its branches (tree), or one row per branch (plain)."""
    prefix = len(group.prefix)
    start = int(group.positions.max()) + 1
    bundles = [[branch] for branch in group.branches] if layout == "plain" else [list(group.branches)]
    for bundle in bundles:
        lengths = [len(branch) for branch in bundle]
        ends = (torch.tensor(lengths).cumsum(0) + prefix - 1).tolist()
        # Text has the same position on all three axes, so the branch positions are expanded to (3, T) where needed.
        branch_positions = torch.cat([torch.arange(start, start + length) for length in lengths])
        branch_positions = branch_positions.expand(*group.positions.shape[:-1], -1)
        ids = torch.cat([group.prefix, *bundle])
        yield _Row(
            ids=ids,
            positions=torch.cat([group.positions, branch_positions], dim=-1),
            group=torch.full_like(ids, index),
            branch=torch.arange(len(bundle) + 1).repeat_interleave(torch.tensor([prefix, *lengths])),
            ends=ends,
        )


def _joined(rows: Sequence[_Row]) -> _Row:
    """Concatenate rows. Positions restart in every group, because no token attends to another group."""
    ends: list[int] = []
    start = 0
    for row in rows:
        ends += [start + end for end in row.ends]
        start += len(row.ids)
    return _Row(
        ids=torch.cat([row.ids for row in rows]),
        positions=torch.cat([row.positions for row in rows], dim=-1),
        group=torch.cat([row.group for row in rows]),
        branch=torch.cat([row.branch for row in rows]),
        ends=ends,
    )


def _trees(group: EncodedGroup, layout: Layout) -> list[tuple[int, ...]]:
    """The entries of a group in `TreeBatch.trees`."""
    prefix, branches = len(group.prefix), [len(branch) for branch in group.branches]
    return [(prefix, *branches)] if layout == "tree" else [(prefix, size) for size in branches]


def _pad_positions(positions: Sequence[Tensor]) -> Tensor:
    """Pad positions of `(3, T)` or `(T,)` per row to `(3, R, T)` or `(R, T)`."""
    padded = pad_sequence([p.movedim(-1, 0) for p in positions], batch_first=True)  # (R, T, 3) or (R, T)
    return padded.movedim(-1, 0) if padded.ndim == 3 else padded


def preference_tensors(groups: Iterable[tuple[Sequence[Preference], int]]) -> dict[str, Any]:
    """Build the fields of a batch that contain its preferences.

    Args:
        groups: for each group, its preferences and the number of its responses.
    """
    winner, loser, weight, margin, tie, of_group = [], [], [], [], [], []
    first = 0
    for index, (preferences, responses) in enumerate(groups):
        for preference in preferences:
            winner.append(first + preference.winner)
            loser.append(first + preference.loser)
            weight.append(preference.weight)
            margin.append(float("nan") if preference.margin is None else preference.margin)
            tie.append(preference.tie)
            of_group.append(index)
        first += responses
    return {
        "winner": torch.tensor(winner, dtype=torch.int64),
        "loser": torch.tensor(loser, dtype=torch.int64),
        "weight": torch.tensor(weight, dtype=torch.float32),
        "margin": torch.tensor(margin, dtype=torch.float32),
        "tie": torch.tensor(tie, dtype=torch.bool),
        "preference_group": torch.tensor(of_group, dtype=torch.int64),
    }
