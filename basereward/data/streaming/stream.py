"""Streams of groups, for data sets that are too large to be read before training.

The size of a stream and the lengths of its groups are unknown. Its rows come in their own order, shuffled within a
buffer, and rejected rows are counted as they occur. The order is a function of the seed, the weights and the rows only:
a resumed run reads the rows up to its position again, which takes the time of reading, not of encoding.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol, runtime_checkable

from basereward.data.schema.group import SPLITS, Group, RejectedRow, Split
from basereward.errors import DataError

StreamItem = Group | RejectedRow


@runtime_checkable
class Streamed(Protocol):
    """A source that can be read sequentially without an index.

    >>> isinstance(object(), Streamed)
    False
    """

    name: str

    def stream(self, split: Split) -> Iterator[StreamItem]:
        """Yield every row of a split, in order, as a group or a rejected row."""
        ...


@dataclass
class StreamPosition:
    """How far a stream has been read.

    Attributes:
        rows: the rows read of each source in its first turn, including rejected ones.
        ended: the sources that have been read completely.

    >>> position = StreamPosition(Counter(a=2))
    >>> earlier = position.copy()
    >>> position.rows["a"] += 1
    >>> earlier.rows["a"]
    2
    """

    rows: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)

    def copy(self) -> StreamPosition:
        """Return a copy that does not change when the stream is read further."""
        return StreamPosition(self.rows.copy(), set(self.ended))


class GroupStream:
    """An endless stream of the groups of several sources, mixed by weight.

    Args:
        sources: the sources by name.
        weights: the weight of each source, at least one of them above 0; None: equal weights.
        buffer: the size of the shuffle buffer of each source, in groups.
        seed: determines the order.

    Raises:
        DataError: all weights are 0.

    >>> from itertools import islice
    >>> from basereward.data.schema.group import Part, Turn
    >>> prompt = (Turn("user", (Part("Q"),)),)
    >>> class Two:
    ...     name = "two"
    ...     def stream(self, split):
    ...         return (Group(str(i), "two", prompt, ("yes", "no"), ()) for i in range(2))
    >>> sorted(group.id for group in islice(GroupStream({"two": Two()}), 4))
    ['0', '0', '1', '1']
    """

    def __init__(
        self,
        sources: Mapping[str, Streamed],
        *,
        weights: Mapping[str, float] | None = None,
        buffer: int = 1000,
        seed: int = 0,
    ) -> None:
        self.sources = dict(sources)
        self.weights = dict(weights or dict.fromkeys(sources, 1.0))
        self.buffer = buffer
        self.seed = seed
        if not any(self.weights.values()):
            raise DataError("data.mixture.weights are all 0; at least one source must be trained on")

    def __iter__(self) -> Iterator[StreamItem]:
        return self.items(StreamPosition())

    def items(self, position: StreamPosition) -> Iterator[StreamItem]:
        """Yield groups and rejected rows. A source that ends starts again in another order.

        Among the first N groups, each source has its fraction of N, rounded up or down: the quota method of Balinski
        and Young (1975), https://doi.org/10.1080/00029890.1975.11993911.

        Args:
            position: is updated as the stream is read.
        """
        # Exact fractions, because rounding errors would change the order of the sources.
        weights = {name: Fraction(str(weight)) for name, weight in self.weights.items() if weight}
        total = sum(weights.values())
        fractions = {name: weight / total for name, weight in weights.items()}
        streams = {name: self._endless(name, position) for name in fractions}
        drawn = dict.fromkeys(fractions, 0)
        number = 0
        while True:
            number += 1
            # Of the sources that are below their quota, the one that needs its next group first. With another choice, a
            # source could fall more than one group behind its quota later.
            behind = [name for name, fraction in fractions.items() if drawn[name] < fraction * number]
            name = min(behind, key=lambda source: (drawn[source] + 1) / fractions[source])
            # Rejected rows are no groups of the mixture, so the source is read on to its next group.
            for item in streams[name]:
                yield item
                if isinstance(item, Group):
                    drawn[name] += 1
                    break

    def _endless(self, name: str, position: StreamPosition) -> Iterator[StreamItem]:
        """Yield the items of a source again and again."""
        turn = 0
        while True:
            # A generator for each source and turn: the order of a source does not depend on how the sources interleave.
            rng = random.Random(f"{self.seed}/{name}/{turn}")
            groups = 0
            rows = self.sources[name].stream("train")
            for item in _shuffled(rows, size=self.buffer, rng=rng):
                groups += isinstance(item, Group)
                position.rows[name] += turn == 0
                # A rejected row is reported only in the first turn, or it would be counted again and again.
                if turn == 0 or isinstance(item, Group):
                    yield item
            # Without this check, a source without groups would be read forever.
            if not groups:
                raise DataError(f"source '{name}' has no group that can be trained on")
            position.ended.add(name)
            turn += 1


def _shuffled(items: Iterator[StreamItem], *, size: int, rng: random.Random) -> Iterator[StreamItem]:
    """Shuffle items within a buffer of `size`; rejected rows are passed on immediately."""
    buffer: list[StreamItem] = []
    for item in items:
        if isinstance(item, RejectedRow) or size <= 1:
            yield item
        elif len(buffer) < size:
            buffer.append(item)
        else:
            place = rng.randrange(size)
            buffer[place], item = item, buffer[place]
            yield item
    rng.shuffle(buffer)
    yield from buffer


class StreamHead:
    """A `Source` with the first groups of the held-out splits of a stream, and no groups to train on.

    Args:
        source: the streamed source.
        rows: the largest number of groups of each held-out split.

    Raises:
        DataError: the source is malformed, or has no group to train on.

    >>> from basereward.data.schema.group import Part, Turn
    >>> prompt = (Turn("user", (Part("Q"),)),)
    >>> class Ten:
    ...     name = "ten"
    ...     def stream(self, split):
    ...         return (Group(f"{split}/{i}", "ten", prompt, ("yes", "no"), ()) for i in range(10))
    >>> [group.id for group in StreamHead(Ten(), rows=2).groups("val")]
    ['val/0', 'val/1']
    """

    def __init__(self, source: Streamed, *, rows: int) -> None:
        self.name = source.name
        self._groups: dict[Split, list[Group]] = {split: [] for split in SPLITS}
        self._rejected: dict[Split, list[RejectedRow]] = {split: [] for split in SPLITS}
        for split in SPLITS[1:]:
            self._read(source, split, rows=rows)
        # Reads up to the first group only. An empty source would otherwise be noticed after the model is loaded.
        if not any(isinstance(item, Group) for item in source.stream("train")):
            raise DataError(f"source '{self.name}' has no group that can be trained on")

    def _read(self, source: Streamed, split: Split, *, rows: int) -> None:
        for item in source.stream(split):
            if isinstance(item, RejectedRow):
                self._rejected[split].append(item)
                continue
            self._groups[split].append(item)
            if len(self._groups[split]) == rows:
                break

    def groups(self, split: Split) -> Sequence[Group]:
        """Return the first groups of a held-out split; none for the train split."""
        return self._groups[split]

    def rejected(self, split: Split) -> list[RejectedRow]:
        """Return the rejected rows before the last one of these groups."""
        return self._rejected[split]
