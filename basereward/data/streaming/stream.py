"""Groups read from beginning to end, for data sets too large to be gone through before training.

Nothing is known of such a source before it is read: neither its size nor the lengths of its groups. Its rows come in
their own order, shuffled within a buffer, and rows that cannot be used are counted as they are met. The order is a
function of the seed, the weights and the rows alone: where a run was stopped it goes on by reading up to there again,
which takes the time of reading, not of encoding.
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
    """A source that can be read from beginning to end without an index of it."""

    name: str

    def stream(self, split: Split) -> Iterator[StreamItem]:
        """Every row of the part, in order, as a group or as lost."""
        ...


@dataclass
class Met:
    """How far a stream is read."""

    rows: Counter[str] = field(default_factory=Counter)  # of every source, each row once, lost ones too
    ended: set[str] = field(default_factory=set)  # sources that were read to their end

    def copy(self) -> Met:
        return Met(self.rows.copy(), set(self.ended))


class GroupStream:
    """The groups of several streamed sources, mixed by weight and without end.

    Args:
        sources: by name.
        weights: the share of each source, one or more of them above 0; None for a single one.
        buffer: groups of each source that wait to be drawn from at random.
        seed: of the drawing.
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
        return self.items(Met())

    def items(self, met: Met) -> Iterator[StreamItem]:
        """Each source is begun anew when it ends, and drawn in another order.

        Among the first N groups every source has its share of N, rounded up or down (the quota method of Balinski and
        Young).

        Args:
            met: is kept up to date as far as the stream is read.
        """
        weights = {name: Fraction(str(weight)) for name, weight in self.weights.items() if weight}
        total = sum(weights.values())
        shares = {name: weight / total for name, weight in weights.items()}
        waiting = {name: self._endless(name, met) for name in shares}
        drawn = dict.fromkeys(shares, 0)
        number = 0
        while True:
            number += 1
            behind = [name for name, share in shares.items() if drawn[name] < share * number]
            name = min(behind, key=lambda each: (drawn[each] + 1) / shares[each])
            for item in waiting[name]:
                yield item
                if isinstance(item, Group):
                    drawn[name] += 1
                    break

    def _endless(self, name: str, met: Met) -> Iterator[StreamItem]:
        turn = 0
        while True:
            rng = random.Random(f"{self.seed}/{name}/{turn}")
            groups = 0
            rows = self.sources[name].stream("train")
            for item in _shuffled(rows, size=self.buffer, rng=rng):
                groups += isinstance(item, Group)
                met.rows[name] += turn == 0
                if turn == 0 or isinstance(item, Group):  # a lost row is told once
                    yield item
            if not groups:
                raise DataError(f"source '{name}' has no group that can be trained on")
            met.ended.add(name)
            turn += 1


def _shuffled(items: Iterator[StreamItem], *, size: int, rng: random.Random) -> Iterator[StreamItem]:
    """The items, each drawn from a buffer of `size` that is kept full; lost ones pass at once."""
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
    """A source of the first groups of the held-out parts of a stream, and the rows that are lost before the last of
    them; none to train on.

    Raises:
        DataError: the source is malformed, or has no group to train on.
    """

    def __init__(self, source: Streamed, *, rows: int) -> None:
        self.name = source.name
        self._groups: dict[Split, list[Group]] = {split: [] for split in SPLITS}
        self._lost: dict[Split, list[RejectedRow]] = {split: [] for split in SPLITS}
        for split in SPLITS[1:]:
            self._read(source, split, rows=rows)
        if not any(isinstance(item, Group) for item in source.stream("train")):
            raise DataError(f"source '{self.name}' has no group that can be trained on")

    def _read(self, source: Streamed, split: Split, *, rows: int) -> None:
        for item in source.stream(split):
            if isinstance(item, RejectedRow):
                self._lost[split].append(item)
                continue
            self._groups[split].append(item)
            if len(self._groups[split]) == rows:
                break

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups[split]

    def lost(self, split: Split) -> list[RejectedRow]:
        return self._lost[split]
