"""Fills forward passes with groups as they come, up to a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from basereward.data.batching.tree_batch import Layout
from basereward.data.encoding.encoder import EncodedGroup

WINDOW = 64  # groups of plain rows that are looked at together, to put rows of like length into one pass

PackedGroup = tuple[int, EncodedGroup]


def fill(groups: Iterable[EncodedGroup], *, budget: int, layout: Layout) -> Iterator[list[PackedGroup]]:
    """Groups, each with its place among all, by forward pass.

    A tree row has no padding, so groups are taken as they come, and only one more is read than the pass needs. Plain
    rows are as long as the longest of them: of every 64 groups the short ones go together.

    Args:
        groups: read once, from first to last.
        budget: the most tokens of a pass, padding included; a group of more goes alone.
    """
    placed = enumerate(groups)
    if layout == "tree":
        yield from _fill(placed, budget=budget, layout=layout)
        return
    while window := list(islice(placed, WINDOW)):
        yield from _fill(sorted(window, key=lambda each: each[1].longest), budget=budget, layout=layout)


def _fill(placed: Iterable[PackedGroup], *, budget: int, layout: Layout) -> Iterator[list[PackedGroup]]:
    together: list[PackedGroup] = []
    tokens = rows = longest = 0
    for place, group in placed:
        tokens += len(group.prefix) + sum(map(len, group.branches))
        rows, longest = rows + len(group.branches), max(longest, group.longest)
        if together and (tokens if layout == "tree" else rows * longest) > budget:
            yield together
            together = []
            tokens, rows, longest = (
                len(group.prefix) + sum(map(len, group.branches)),
                len(group.branches),
                group.longest,
            )
        together.append((place, group))
    if together:
        yield together
