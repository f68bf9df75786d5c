"""Packs groups into forward passes within a token budget, in the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from basereward.data.batching.tree_batch import Layout
from basereward.data.encoding.encoder import EncodedGroup

WINDOW = 64  # groups that are sorted together, so that plain rows of one pass have similar lengths

PackedGroup = tuple[int, EncodedGroup]
Item = TypeVar("Item")


class RowSize(NamedTuple):
    """What an item adds to a forward pass.

    Attributes:
        tokens: of the item.
        rows: that the item makes, when rows are padded to the longest one.
        longest: tokens of the longest of these rows.
    """

    tokens: int
    rows: int = 1
    longest: int = 0


def pack_in_order(
    items: Iterable[Item], *, budget: int, size_of: Callable[[Item], RowSize], padded: bool = False
) -> Iterator[list[Item]]:
    """Pack items into bins in their order: a bin ends before the item that would exceed the budget.

    Args:
        items: read once; at most one item is read in advance.
        budget: the largest number of tokens of a bin; a larger item gets a bin of its own.
        size_of: the size of an item.
        padded: count every row of a bin with the tokens of its longest row.

    >>> list(pack_in_order([200, 40, 40, 300], budget=256, size_of=RowSize))
    [[200, 40], [40], [300]]
    >>> list(pack_in_order([3, 4, 1], budget=8, size_of=lambda item: RowSize(item, 1, item), padded=True))
    [[3, 4], [1]]
    """
    members: list[Item] = []
    total = RowSize(0, 0, 0)
    for item in items:
        size = size_of(item)
        total = RowSize(total.tokens + size.tokens, total.rows + size.rows, max(total.longest, size.longest))
        # The first item always goes in, however large: no pass can be smaller than its largest group.
        if members and (total.rows * total.longest if padded else total.tokens) > budget:
            yield members
            members, total = [], size
        members.append(item)
    if members:
        yield members


def pack_groups(groups: Iterable[EncodedGroup], *, budget: int, layout: Layout) -> Iterator[list[PackedGroup]]:
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
        yield from pack_in_order(placed, budget=budget, size_of=_size)
        return
    while window := list(islice(placed, WINDOW)):
        by_length = sorted(window, key=lambda packed: packed[1].longest)
        yield from pack_in_order(by_length, budget=budget, size_of=_size, padded=True)


def _size(packed: PackedGroup) -> RowSize:
    _, group = packed
    return RowSize(len(group.prefix) + sum(map(len, group.branches)), len(group.branches), group.longest)
