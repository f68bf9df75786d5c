"""Batches of groups as rows of tokens: `[prefix][branch 1]...[branch K]`, group after group in one row without padding,
or one plain sequence a response.

Shapes: R rows of T tokens, B branches, G groups of K responses in all, P preferences, N image patches, n images to
encode, m places of images in the rows. A branch is a response, so that B = K, unless a head that speaks has others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_dedup import distinct
from basereward.data.images.pixels import Pixels
from basereward.data.images.vision_features import Features
from basereward.data.schema.group import Preference, RejectedRow
from basereward.data.streaming.stream import Met

Layout = Literal["tree", "plain"]
PADDING = -1


@dataclass
class TreeBatch:
    """Groups laid out in rows. A token sees a token iff both are of the same group, the other is not later, and the
    other is of the prefix or of the same branch. Positions of every branch start where the prefix's end."""

    layout: Layout
    input_ids: Tensor  # (R, T)
    position_ids: Tensor  # (3, R, T) or (R, T)
    trees: list[tuple[int, ...]]  # of every group, or plain row: tokens of its prefix, then of each of its branches
    group: Tensor  # (R, T): index of the token's group, PADDING
    branch: Tensor  # (R, T): 0 in a prefix, k >= 1 in the k-th branch, PADDING
    ends: Tensor  # (B, 2): row and column of every branch's last token
    pixels: Pixels | None  # N patches of the distinct images to encode
    image_grid_thw: Tensor | None  # (n, 3)
    winner: Tensor  # (P,): index among the K responses
    loser: Tensor  # (P,)
    weight: Tensor  # (P,) float32
    margin: Tensor  # (P,) float32, NaN where the data give none
    tie: Tensor  # (P,) bool
    preference_group: Tensor  # (P,): index among the G groups
    lengths: Tensor  # (K,): tokens of every response, its end of turn left out
    ids: list[str]  # G
    sources: list[str]  # G
    image_places: tuple[int, ...] = ()  # m: the image there, of the n and then of those whose features are kept
    image_keys: tuple[str, ...] = ()  # n names to keep features under; none where they are not kept
    features: Features | None = None  # of the images that need not be encoded
    pooled: Tensor | None = None  # (B, D) float32: pooled states that were computed before; there are no rows then
    lost: list[RejectedRow] = field(default_factory=list)  # rows of a stream that were met on the way to these groups
    met: Met | None = None  # how far a stream was read for them
    step_counts: list[tuple[int, int]] | None = None  # of a stream: `group_counts` of all groups of the optimizer step
    responses: list[int] = field(default_factory=list)  # G: how many of the K are each group's
    # Of a head that speaks; without one there are none.
    about: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))  # (B, 2): the two of the K
    # responses that a branch compares, the one shown first before the other
    lm_target_positions: Tensor = field(
        default_factory=lambda: torch.empty(0, 2, dtype=torch.int64)
    )  # (W, 2): row and column of
    # the tokens that it is taught to write
    lm_target_weights: Tensor = field(
        default_factory=lambda: torch.empty(0)
    )  # (W,): what each counts in the loss, which
    # is a mean over groups, and in a group over its tokens

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """The batch with all its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TreeBatch:
        """The batch in page-locked memory, from which a GPU copies faster."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> TreeBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        changed["pixels"] = self.pixels.map(change) if self.pixels else None
        changed["features"] = self.features.map(change) if self.features else None
        return replace(self, **changed)

    def __getstate__(self) -> dict[str, Any]:
        # Between processes torch hands every tensor over as a shared file of its own, which costs more than a copy of a
        # small one; only pixels and features are large.
        return {
            field.name: value.numpy() if isinstance(value := getattr(self, field.name), Tensor) else value
            for field in fields(self)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    @property
    def num_groups(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Row:
    """One row before padding: its tokens, and the columns where responses end."""

    ids: Tensor  # (T,)
    positions: Tensor  # (3, T) or (T,)
    group: Tensor  # (T,)
    branch: Tensor  # (T,)
    ends: list[int]


def collate(groups: Sequence[EncodedGroup], *, layout: Layout, pad_id: int) -> TreeBatch:
    """Lays groups out in rows.

    Args:
        groups: G encoded groups.
        layout: `tree` puts all groups in one row; `plain` gives every response a row, padded on the right. Equal
            images, in one group or in several, are carried once.
        pad_id: token of the padding.
    """
    rows = [row for index, group in enumerate(groups) for row in _rows(group, index, layout)]
    if layout == "tree":
        rows = [_joined(rows)]
    ends = torch.tensor([(r, column) for r, row in enumerate(rows) for column in row.ends])
    pictures = distinct(groups, [len(group.branches) if layout == "plain" else 1 for group in groups])
    return TreeBatch(
        layout=layout,
        input_ids=pad_sequence([row.ids for row in rows], batch_first=True, padding_value=pad_id),
        position_ids=_pad_positions([row.positions for row in rows]),
        trees=[tree for group in groups for tree in _trees(group, layout)],
        group=pad_sequence([row.group for row in rows], True, PADDING),
        branch=pad_sequence([row.branch for row in rows], True, PADDING),
        ends=ends,
        pixels=pictures.pixels,
        image_grid_thw=pictures.grids,
        image_places=pictures.places,
        image_keys=pictures.keys,
        features=pictures.features,
        lengths=torch.tensor([length for group in groups for length in group.response_lengths]),
        responses=[len(group.response_lengths) for group in groups],
        about=_about(groups),
        **_lm_targets(groups, ends),
        ids=[group.id for group in groups],
        sources=[group.source for group in groups],
        **preference_tensors([(group.preferences, len(group.response_lengths)) for group in groups]),
    )


def _about(groups: Sequence[EncodedGroup]) -> Tensor:
    pairs, first = [], 0
    for group in groups:
        pairs += [(first + each.about[0], first + each.about[1]) for each in group.spoken if len(each.about) == 2]
        first += len(group.response_lengths)
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _lm_targets(groups: Sequence[EncodedGroup], ends: Tensor) -> dict[str, Any]:
    """Row and column of the last tokens of every branch, as many as are written; `ends` has the last of them."""
    # As of preferences every group has the same say, so that a step is the same however its groups are shared out among
    # forward passes.
    shares = [
        (each.written, each.weight / (len(groups) * sum(every.written for every in group.spoken) or 1))
        for group in groups
        for each in group.spoken
    ]
    found = [
        (row, end - back, weight)
        for (row, end), (written, weight) in zip(ends.tolist(), shares, strict=False)
        for back in range(written)
    ]
    return {
        "lm_target_positions": torch.tensor([place[:2] for place in found], dtype=torch.int64).reshape(-1, 2),
        "lm_target_weights": torch.tensor([weight for *_, weight in found], dtype=torch.float32),
    }


def _rows(group: EncodedGroup, index: int, layout: Layout) -> Iterable[_Row]:
    prefix = len(group.prefix)
    start = int(group.positions.max()) + 1
    bundles = [[branch] for branch in group.branches] if layout == "plain" else [list(group.branches)]
    for bundle in bundles:
        lengths = [len(branch) for branch in bundle]
        ends = (torch.tensor(lengths).cumsum(0) + prefix - 1).tolist()
        continued = torch.cat([torch.arange(start, start + length) for length in lengths])
        ids = torch.cat([group.prefix, *bundle])
        yield _Row(
            ids=ids,
            positions=torch.cat([group.positions, continued.expand(*group.positions.shape[:-1], -1)], dim=-1),
            group=torch.full_like(ids, index),
            branch=torch.arange(len(bundle) + 1).repeat_interleave(torch.tensor([prefix, *lengths])),
            ends=ends,
        )


def _joined(rows: Sequence[_Row]) -> _Row:
    """Rows one after the other, as one. Positions begin anew with every group: no token sees another group's."""
    starts = torch.tensor([0, *(len(row.ids) for row in rows)]).cumsum(0).tolist()
    return _Row(
        ids=torch.cat([row.ids for row in rows]),
        positions=torch.cat([row.positions for row in rows], dim=-1),
        group=torch.cat([row.group for row in rows]),
        branch=torch.cat([row.branch for row in rows]),
        ends=[start + end for start, row in zip(starts, rows, strict=False) for end in row.ends],
    )


def _trees(group: EncodedGroup, layout: Layout) -> list[tuple[int, ...]]:
    prefix, branches = len(group.prefix), [len(branch) for branch in group.branches]
    return [(prefix, *branches)] if layout == "tree" else [(prefix, size) for size in branches]


def _pad_positions(positions: Sequence[Tensor]) -> Tensor:
    """`(3, T)` or `(T,)` a row -> `(3, R, T)` or `(R, T)`."""
    padded = pad_sequence([p.movedim(-1, 0) for p in positions], batch_first=True)  # (R, T, 3) or (R, T)
    return padded.movedim(-1, 0) if padded.ndim == 3 else padded


def preference_tensors(groups: Iterable[tuple[Sequence[Preference], int]]) -> dict[str, Any]:
    """The fields of a batch that its preferences are in, from those of every group and its number of responses."""
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
