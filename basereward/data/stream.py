"""Groups read from beginning to end, for data sets too large to be gone through before training.

Nothing is known of such a source before it is read: neither its size nor the lengths of its groups. Its rows come in
their own order, shuffled within a buffer, and rows that cannot be used are counted as they are met. The order is a
function of the seed, the weights and the rows alone: where a run was stopped it goes on by reading up to there again,
which takes the time of reading, not of encoding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Protocol, runtime_checkable

from torch.utils.data import IterableDataset, get_worker_info

from basereward.data.encoding import EncodedGroup, Encoder
from basereward.data.group import Group, Lost, Split
from basereward.data.screening import RowLost
from basereward.data.tree import Layout, TreeBatch, collate
from basereward.errors import DataError

Item = Group | Lost


@runtime_checkable
class Streamed(Protocol):
    """A source that can be read from beginning to end without an index of it."""

    name: str

    def stream(self, split: Split) -> Iterator[Item]:
        """Every row of the part, in order, as a group or as lost."""
        ...


class GroupStream:
    """The groups of several streamed sources, mixed by weight and without end.

    Args:
        sources: by name.
        weights: the share of each source; None for a single one.
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

    def __iter__(self) -> Iterator[Item]:
        """Each source is begun anew when it ends, and drawn in another order.

        Of all sources the one is next that lags furthest behind its share.
        """
        waiting = {name: self._endless(name) for name, weight in self.weights.items() if weight}
        drawn = dict.fromkeys(waiting, 0)
        while True:
            name = min(waiting, key=lambda each: (drawn[each] + 1) / self.weights[each])
            for item in waiting[name]:
                yield item
                if isinstance(item, Group):
                    drawn[name] += 1
                    break

    def _endless(self, name: str) -> Iterator[Item]:
        turn = 0
        while True:
            rng = random.Random(f"{self.seed}/{name}/{turn}")
            groups = 0
            for item in _shuffled(self.sources[name].stream("train"), size=self.buffer, rng=rng):
                groups += isinstance(item, Group)
                if turn == 0 or isinstance(item, Group):  # a lost row is counted once
                    yield item
            if not groups:
                raise DataError(f"source '{name}' has no group that can be trained on")
            turn += 1


def _shuffled(items: Iterator[Item], *, size: int, rng: random.Random) -> Iterator[Item]:
    """The items, each drawn from a buffer of `size` that is kept full; lost ones pass at once."""
    buffer: list[Item] = []
    for item in items:
        if isinstance(item, Lost) or size <= 1:
            yield item
        elif len(buffer) < size:
            buffer.append(item)
        else:
            place = rng.randrange(size)
            buffer[place], item = item, buffer[place]
            yield item
    rng.shuffle(buffer)
    yield from buffer


class StreamedPasses(IterableDataset[TreeBatch]):
    """The forward passes of a stream, from the first that is not done.

    Every worker reads the whole stream and encodes the passes that are its own, so that the passes come in the same
    order whatever the number of workers. A group that cannot be encoded is left out of its pass, and told with it.

    Args:
        groups: groups a pass on one rank.
        first, last: the passes to give, `last` not included; over all ranks each has `ranks` parts.
    """

    def __init__(
        self,
        stream: GroupStream,
        *,
        encoder: Encoder,
        layout: Layout,
        groups: int,
        first: int,
        last: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.stream = stream
        self.encoder = encoder
        self.layout: Layout = layout
        self.groups = groups
        self.first = first
        self.last = last
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[TreeBatch]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        items = iter(self.stream)
        for number in range(self.last):
            for rank in range(self.ranks):
                groups, lost = _take(items, self.groups)
                if number >= self.first and (number - self.first) % workers == mine and rank == self.rank:
                    yield self._encoded(groups, lost)

    def _encoded(self, groups: list[Group], lost: list[Lost]) -> TreeBatch:
        encoded: list[EncodedGroup] = []
        for group in groups:
            try:
                encoded.append(self.encoder(group))
            except RowLost as loss:
                lost.append(Lost(group.source, "train", group.id, loss.reason, loss.detail))
        if not encoded:
            raise DataError(
                f"none of the {len(groups)} groups of a forward pass can be used: "
                + "; ".join(f"{row.id}: {row.reason}, {row.detail}" for row in lost[:3])
            )
        batch = collate(encoded, layout=self.layout, pad_id=self.encoder.pad_id)
        return replace(batch, lost=lost)


def _take(items: Iterator[Item], number: int) -> tuple[list[Group], list[Lost]]:
    """The next groups, and the lost rows that are met before the last of them."""
    groups: list[Group] = []
    lost: list[Lost] = []
    for item in items:
        if isinstance(item, Lost):
            lost.append(item)
        else:
            groups.append(item)
            if len(groups) == number:
                break
    return groups, lost


def head(source: Streamed, split: Split, *, rows: int) -> list[Group]:
    """The first groups of a held-out part."""
    return list(islice((item for item in source.stream(split) if isinstance(item, Group)), rows))
