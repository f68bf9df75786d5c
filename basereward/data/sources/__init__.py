"""Sources: data sets that give preference groups, one class a file; the file's name is the name in a recipe.

To add a source, write a file in this folder with a class that has the methods of `Source`, or name any such class in a
recipe by its dotted path.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Protocol, overload

from basereward.data.schema.group import Group, RejectedRow, Split


class Source(Protocol):
    """A data set of preference groups with a train, val and test split.

    A source is constructed as `Class(name, **arguments)` with the arguments of the recipe. It must be picklable,
    because worker processes of the data loader get a copy.
    """

    name: str

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the groups of a split.

        The result must be the same at every call, and no prompt may be in two splits.

        Raises:
            DataError: a file or a row is malformed; the message contains file and line.
        """
        ...

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return the rows of a split that give no group, as far as this is known without opening images."""
        ...


class LazyGroups(Sequence[Group]):
    """A sequence that makes each group when it is accessed, so that millions of groups need no memory.

    Args:
        make: maps an index to a group. It must be picklable (a method, or a `functools.partial` of one) and
            deterministic.
        count: the number of groups.

    >>> squares = LazyGroups(lambda index: index**2, count=4)
    >>> len(squares), squares[3], list(squares[1:3])
    (4, 9, [1, 4])
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
        # A range checks the index, and handles negative indices and slices as a list does.
        positions = range(self._count)[index]
        if isinstance(positions, range):
            return LazyGroups(_At(self._make, positions), count=len(positions))
        return self._make(operator.index(positions))


class _At:
    """The function `index -> make(positions[index])` for slices; a class, because a lambda cannot be pickled."""

    def __init__(self, make: Callable[[int], Group], positions: range) -> None:
        self._make = make
        self._positions = positions

    def __call__(self, index: int) -> Group:
        return self._make(self._positions[index])
