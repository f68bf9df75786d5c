"""Batches of groups as rows of tokens.

In the tree layout one row holds all groups without padding: first the prefixes of all groups, then their branches,
`[prefix 1]...[prefix G][branches of group 1]...[branches of group G]`. So all prefixes, and all branches, are one slice
of the row, which attention reads without a copy. In the plain layout each branch is a row of its own,
`[prefix][branch]`, padded on the right.

Shapes:
    R rows of T tokens; G groups; B branches; K responses of all groups together; P preferences; N image patches;
    n images to encode; m image places in the rows; W target tokens of a generative head; D channels.

A branch is a response, so B = K, except with generative heads, whose branch templates may make other branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from basereward.data.batching.step_totals import StepTotals
from basereward.data.images.image_dedup import BatchImages
from basereward.data.schema.group import RejectedRow
from basereward.data.streaming.stream import StreamPosition

Layout = Literal["tree", "plain"]
PADDING = -1  # value of `group` and `branch` at padding tokens


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of a tree row: a prefix or a branch.

    Attributes:
        group: index of its group among those of the row.
        branch: 0 for the prefix, k >= 1 for the k-th branch.
        columns: of its tokens in the row.
    """

    group: int
    branch: int
    columns: slice


def row_segments(trees: Sequence[tuple[int, ...]]) -> Iterator[Segment]:
    """The segments of a tree row, in the order of their tokens.

    Args:
        trees: for each group, the number of tokens of its prefix and of each of its branches.

    >>> [(s.group, s.branch, s.columns.start, s.columns.stop) for s in row_segments([(3, 1), (2, 1, 2)])]
    [(0, 0, 0, 3), (1, 0, 3, 5), (0, 1, 5, 6), (1, 1, 6, 7), (1, 2, 7, 9)]
    """
    column = 0
    for group, (prefix, *_) in enumerate(trees):
        yield Segment(group, 0, slice(column, column + prefix))
        column += prefix
    for group, (_, *branches) in enumerate(trees):
        for number, size in enumerate(branches, start=1):
            yield Segment(group, number, slice(column, column + size))
            column += size


class TensorRecord:
    """A dataclass with tensors: they move between devices together, and between processes as arrays."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the record with all its tensors changed, also those of records in it."""
        changed: dict[str, Any] = {}
        for entry in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, TensorRecord | BatchImages):
                changed[entry.name] = value.map(change)
        return replace(self, **changed)  # type: ignore[type-var]

    def __getstate__(self) -> dict[str, Any]:
        # Between processes torch passes every tensor as a shared file of its own, which takes longer than copying a
        # small tensor as an array. Only the images are large; they stay tensors.
        state = {}
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            state[entry.name] = value.numpy() if isinstance(value, Tensor) else value
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            # `object.__setattr__`, because the records are frozen.
            object.__setattr__(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)


@dataclass(frozen=True)
class TokenRows(TensorRecord):
    """Rows of tokens, and where the prefixes and branches lie in them.

    Attributes:
        layout: `tree` or `plain`; see the module's docstring.
        input_ids: `(R, T)` int64, token ids.
        position_ids: `(3, R, T)` int64 for multimodal rotary positions (time, height, width), else `(R, T)`.
        trees: for each group (tree) or row (plain), the number of tokens of its prefix and of each of its branches.
        group: `(R, T)` int64, the index of the token's group among the G groups, or `PADDING`.
        branch: `(R, T)` int64, 0 in a prefix, k >= 1 in the k-th branch of the row's group, or `PADDING`.
        ends: `(B, 2)` int64, row and column of the last token of each branch, where a scalar head reads.
    """

    layout: Layout
    input_ids: Tensor
    position_ids: Tensor
    trees: list[tuple[int, ...]]
    group: Tensor
    branch: Tensor
    ends: Tensor


@dataclass(frozen=True)
class PreferencePairs(TensorRecord):
    """The preferences of a batch, as indices among its K responses.

    Attributes:
        winner: `(P,)` int64, the preferred response.
        loser: `(P,)` int64, the other response.
        weight: `(P,)` float32, the factor of each preference in the loss.
        margin: `(P,)` float32, how much better the winner is; NaN if unknown.
        tie: `(P,)` bool, whether neither response is better.
        group: `(P,)` int64, the index of the preference's group among the G groups.
        counts: for each of the G groups, the number of its preferences and of the ties among them, on the host.
    """

    winner: Tensor
    loser: Tensor
    weight: Tensor
    margin: Tensor
    tie: Tensor
    group: Tensor
    counts: tuple[tuple[int, int], ...]


def _no_pairs() -> Tensor:
    return torch.empty(0, 2, dtype=torch.int64)


@dataclass(frozen=True)
class LanguageTargets(TensorRecord):
    """What a generative head learns to write.

    Attributes:
        positions: `(W, 2)` int64, row and column of the target tokens.
        weights: `(W,)` float32, the weight of each of these tokens in the language loss. The weights of a group add up
            to 1 / G (times the weight of its branches), so that every group counts equally.
        compared: `(B, 2)` int64, for branches that compare two responses, their indices among the K, in the order in
            which they are shown; empty for other heads.
    """

    positions: Tensor = field(default_factory=_no_pairs)
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    compared: Tensor = field(default_factory=_no_pairs)


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """How far the streams have been read for a batch.

    Attributes:
        position: in the streams, after the groups of the batch.
        rejected: rows that were rejected since the previous batch.
    """

    position: StreamPosition
    rejected: list[RejectedRow]


@dataclass(frozen=True)
class TreeBatch(TensorRecord):
    """Groups laid out in rows of tokens, with their preferences.

    A token attends to a token if both belong to the same group, the other is not later, and the other belongs to the
    prefix or to the same branch. The positions of each branch continue those of the prefix.

    Attributes:
        rows: the tokens.
        preferences: among the responses.
        ids: the ids of the G groups.
        sources: the names of the sources of the G groups.
        responses: for each of the G groups, the number of its responses.
        lengths: `(K,)` int64, tokens of each response without its end-of-turn token.
        images: in the rows, each distinct image once.
        targets: of a generative head.
        pooled: `(B, D)` float32, pooled states that were computed before. The batch then has no rows.
        step: totals of the optimizer step of a training batch; None for batches that know no step.
        stream: progress of a stream; None without streaming.
    """

    rows: TokenRows
    preferences: PreferencePairs
    ids: list[str]
    sources: list[str]
    responses: list[int]
    lengths: Tensor
    images: BatchImages = field(default_factory=BatchImages)
    targets: LanguageTargets = field(default_factory=LanguageTargets)
    pooled: Tensor | None = None
    step: StepTotals | None = None
    stream: StreamProgress | None = None

    # Lightning and torch's data loader look for these two methods by name.

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TreeBatch:
        """Return the batch with all tensors on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TreeBatch:
        """Return the batch in page-locked memory, from which copies to a GPU are faster."""
        return self.map(lambda tensor: tensor.pin_memory())

    @property
    def num_groups(self) -> int:
        """G, the number of groups."""
        return len(self.ids)
