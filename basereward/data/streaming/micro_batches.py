"""Forward passes cut from a stream of groups, the same ones whatever the number of processes that load them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from torch.utils.data import IterableDataset, get_worker_info

from basereward.data.batching.loss_units import group_counts
from basereward.data.batching.tree_batch import Layout, TreeBatch, collate
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group, RejectedRow
from basereward.data.schema.rejections import RowRejected
from basereward.data.streaming.stream import GroupStream, Met, StreamItem
from basereward.errors import DataError

FAR = 100  # groups that are looked at for one that can be used


class StreamedPasses(IterableDataset[TreeBatch]):
    """The forward passes of one stage of a run, from the first that is not done.

    Every worker reads the whole stream and encodes the passes that are its own. A group that cannot be encoded is left
    out of its pass, and told with it; a pass that has no other takes the next group of the stream that can be, which
    then comes twice.

    Args:
        groups: groups a pass on one rank.
        forwards: the passes of the stage; over all ranks each has `ranks` parts.
        forwards_per_step: passes of an optimizer step; the stage begins and ends with a step.
        done: passes of the run that are done.
    """

    def __init__(
        self,
        stream: GroupStream,
        *,
        encoder: Encoder,
        layout: Layout,
        groups: int,
        forwards: range,
        forwards_per_step: int = 1,
        done: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.stream = stream
        self.encoder = encoder
        self.layout: Layout = layout
        self.groups = groups
        self.forwards = forwards
        self.forwards_per_step = forwards_per_step
        self.first = min(max(done, forwards.start), forwards.stop)
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        """Of the whole stage, as Lightning counts the passes of one that goes on."""
        return len(self.forwards)

    def __iter__(self) -> Iterator[TreeBatch]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        met = Met()
        items = _Ahead(self.stream.items(met))
        for step in range(0, self.forwards.stop, self.forwards_per_step):
            # Groups of the whole step are drawn before its first pass: its loss needs to know how many there are.
            drawn = [(*_take(items, self.groups), met.copy()) for _ in range(self.forwards_per_step * self.ranks)]
            counts = [group_counts(group.preferences) for groups, _, _ in drawn for group in groups]
            for place, (groups, lost, met_by_then) in enumerate(drawn):
                number, rank = step + place // self.ranks, place % self.ranks
                if number >= self.first and (number - self.first) % workers == mine and rank == self.rank:
                    batch = self._batch(groups, lost, items)
                    yield replace(batch, lost=lost, met=met_by_then, step_counts=counts)

    def _batch(self, groups: list[Group], lost: list[RejectedRow], items: _Ahead) -> TreeBatch:
        """The batch of a pass; what cannot be encoded is added to `lost`."""
        results = [self._encoded(group) for group in groups]
        lost += [result for result in results if isinstance(result, RejectedRow)]
        encoded = [result for result in results if isinstance(result, EncodedGroup)]
        if not encoded:
            encoded = [self._stand_in(items)]
        return collate(encoded, layout=self.layout, pad_id=self.encoder.pad_id)

    def _encoded(self, group: Group) -> EncodedGroup | RejectedRow:
        try:
            return self.encoder(group, with_targets=True)
        except RowRejected as loss:
            return RejectedRow(group.source, "train", group.id, loss.reason, loss.detail)

    def _stand_in(self, items: _Ahead) -> EncodedGroup:
        faults = []
        for group in items.look(FAR):
            result = self._encoded(group)
            if isinstance(result, EncodedGroup):
                return result
            faults.append(f"  {result.id}: {result.reason}, {result.detail}")
        raise DataError("\n".join([f"of {FAR} groups in a row none can be used; the first:", *faults[:3]]))


class _Ahead(Iterator[StreamItem]):
    """Items that can be looked at before they are taken."""

    def __init__(self, items: Iterator[StreamItem]) -> None:
        self._items = items
        self._seen: deque[StreamItem] = deque()

    def __next__(self) -> StreamItem:
        return self._seen.popleft() if self._seen else next(self._items)

    def look(self, number: int) -> Iterator[Group]:
        """The next groups; they stay where they are."""
        place = found = 0
        while found < number:
            if place == len(self._seen):
                self._seen.append(next(self._items))
            item = self._seen[place]
            place += 1
            if isinstance(item, Group):
                found += 1
                yield item


def _take(items: Iterator[StreamItem], number: int) -> tuple[list[Group], list[RejectedRow]]:
    """The next groups, and the lost rows that are met before the last of them."""
    groups: list[Group] = []
    lost: list[RejectedRow] = []
    for item in items:
        if isinstance(item, RejectedRow):
            lost.append(item)
        else:
            groups.append(item)
            if len(groups) == number:
                break
    return groups, lost
