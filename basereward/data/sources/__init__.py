"""Where groups come from: one class a file; its name in a recipe is the file's name.

A source of your own is a file here, or any class that a recipe names by its dotted path, with the methods of `Source`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Protocol, overload

from basereward.data.schema.group import Group, RejectedRow, Split


class Source(Protocol):
    """Gives groups by part. Made as `Class(name, **arguments of the recipe)`; picklable, for the loader's processes."""

    name: str

    def groups(self, split: Split) -> Sequence[Group]:
        """The groups of one part; no prompt may be in two parts. The same call gives the same groups, always.

        Raises:
            DataError: a file, or a row of it, is malformed; the message names file and line.
        """
        ...

    def lost(self, split: Split) -> list[RejectedRow]:
        """Rows of the part that are known, before any picture is opened, to make no group. They are not in `groups`."""
        ...


class LazyGroups(Sequence[Group]):
    """Groups that are made when they are asked for, so that millions cost nothing until then.

    `make(index)` must be picklable (a method, or a `functools.partial` of one) and depend on the index alone.
    """

    def __init__(self, make: Callable[[int], Group], *, count: int) -> None:
        self._make = make
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> LazyGroups: ...

    def __getitem__(self, index: int | slice) -> Group | LazyGroups:
        positions = range(self._count)[index]
        if isinstance(positions, range):
            return LazyGroups(_At(self._make, positions), count=len(positions))
        return self._make(operator.index(positions))


class _At:
    """Picklable `index -> make(positions[index])`, for slices."""

    def __init__(self, make: Callable[[int], Group], positions: range) -> None:
        self._make = make
        self._positions = positions

    def __call__(self, index: int) -> Group:
        return self._make(self._positions[index])
