"""Packs groups into forward passes within a token budget, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from basereward.data.batching.tree_batch import Layout
from basereward.data.encoding.encoder import EncodedGroup

WINDOW = 64  # groups that are sorted together, so that plain rows of one pass have similar lengths

PackedGroup = tuple[int, EncodedGroup]


def fill(groups: Iterable[EncodedGroup], *, budget: int, layout: Layout) -> Iterator[list[PackedGroup]]:
    """Yield lists of (index, group), one list per forward pass.

    A tree row has no padding, so groups are taken in order, and at most one group is read in advance. Plain rows are
    padded to the longest one, so every 64 groups are sorted by length first.

    Args:
        groups: the groups, read once.
        budget: the largest number of tokens of a pass, padding included; a larger group gets a pass of its own.
        layout: the layout of the batches.
    """
    placed = enumerate(groups)
    if layout == "tree":
        yield from _fill(placed, budget=budget, layout=layout)
        return
    while window := list(islice(placed, WINDOW)):
        by_length = sorted(window, key=lambda packed: packed[1].longest)
        yield from _fill(by_length, budget=budget, layout=layout)


def _fill(placed: Iterable[PackedGroup], *, budget: int, layout: Layout) -> Iterator[list[PackedGroup]]:
    members: list[PackedGroup] = []
    tokens = rows = longest = 0
    for place, group in placed:
        group_tokens = len(group.prefix) + sum(map(len, group.branches))
        tokens += group_tokens
        rows, longest = rows + len(group.branches), max(longest, group.longest)
        if members and (tokens if layout == "tree" else rows * longest) > budget:
            yield members
            members = []
            tokens, rows, longest = group_tokens, len(group.branches), group.longest
        members.append((place, group))
    if members:
        yield members
