"""Micro-batches of a stream of groups; they do not depend on the number of worker processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from torch.utils.data import IterableDataset, get_worker_info

from basereward.data.batching.collate import collate
from basereward.data.batching.loss_units import Unit, count_units, group_counts
from basereward.data.batching.step_totals import StepTotals
from basereward.data.batching.tree_batch import Layout, StreamProgress, TreeBatch
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group, RejectedRow
from basereward.data.schema.rejections import RowRejected
from basereward.data.streaming.stream import GroupStream, StreamItem, StreamPosition
from basereward.errors import DataError

# Groups that are tried as a replacement before the stream counts as unusable.
MAX_LOOKAHEAD = 100


class StreamedMicroBatches(IterableDataset[TreeBatch]):
    """The micro-batches of one stage of a run, from the first one that is not done.

    Every worker reads the whole stream and encodes only its own micro-batches. A group that cannot be encoded is left
    out and added to the batch's rejected rows. If no group of a micro-batch can be encoded, it gets the next usable
    group of the stream, which is then used twice.

    Args:
        stream: the groups.
        encoder: encodes groups.
        layout: the layout of the batches.
        unit: the unit of the ranking loss, whose number in its optimizer step every batch gets.
        groups: groups per micro-batch on one rank.
        forwards: the indices of the stage's micro-batches.
        forwards_per_step: micro-batches per optimizer step; a stage begins and ends with a step.
        done: micro-batches of the run that are done.
        rank: this process.
        ranks: processes that train together.
    """

    def __init__(
        self,
        stream: GroupStream,
        *,
        encoder: Encoder,
        layout: Layout,
        unit: Unit = "group",
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
        self.unit: Unit = unit
        self.groups = groups
        self.forwards = forwards
        self.forwards_per_step = forwards_per_step
        self.first = min(max(done, forwards.start), forwards.stop)
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        """Return the length of the whole stage: Lightning counts the batches of a resumed epoch from its beginning."""
        return len(self.forwards)

    def __iter__(self) -> Iterator[TreeBatch]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        position = StreamPosition()
        items = _Lookahead(self.stream.items(position))
        # From the beginning of the run, also when it is resumed: a stream can only be read in order.
        for step in range(0, self.forwards.stop, self.forwards_per_step):
            # The groups of the whole step are drawn before its first micro-batch, because the loss is divided by their
            # number.
            drawn = []
            counts = []
            for _ in range(self.forwards_per_step * self.ranks):
                groups, rejected = _take(items, self.groups)
                drawn.append((groups, rejected, position.copy()))
                counts += [group_counts(group.preferences) for group in groups]
            # Groups that turn out to be unusable are counted too: whether they are is known only when they are encoded.
            totals = StepTotals(len(drawn), len(counts), count_units(self.unit, counts), _have_images(drawn))
            for place, (groups, rejected, position_then) in enumerate(drawn):
                # Ranks take turns, so that a run on N processes trains on the same groups in each step as on one.
                index, rank = step + place // self.ranks, place % self.ranks
                if index >= self.first and (index - self.first) % workers == worker_id and rank == self.rank:
                    batch = self._batch(groups, rejected, items)
                    yield replace(batch, stream=StreamProgress(position_then, rejected), step=totals)

    def _batch(self, groups: list[Group], rejected: list[RejectedRow], items: _Lookahead) -> TreeBatch:
        """Encode a micro-batch; groups that cannot be encoded are appended to `rejected`."""
        results = [self._encoded(group) for group in groups]
        rejected += [result for result in results if isinstance(result, RejectedRow)]
        encoded = [result for result in results if isinstance(result, EncodedGroup)]
        # An empty micro-batch is not possible: with several processes, the others would wait for its gradients.
        if not encoded:
            encoded = [self._replacement(items)]
        return collate(encoded, layout=self.layout, pad_id=self.encoder.pad_id)

    def _encoded(self, group: Group) -> EncodedGroup | RejectedRow:
        """Encode a group; if it cannot be encoded, return it as a rejected row."""
        try:
            return self.encoder(group, with_targets=True)
        except RowRejected as rejection:
            return RejectedRow(group.source, "train", group.id, rejection.reason, rejection.detail)

    def _replacement(self, items: _Lookahead) -> EncodedGroup:
        """Encode the next usable group of the stream without taking it."""
        faults = []
        for group in items.peek(MAX_LOOKAHEAD):
            result = self._encoded(group)
            if isinstance(result, EncodedGroup):
                return result
            faults.append(f"  {result.id}: {result.reason}, {result.detail}")
        raise DataError(
            "\n".join([f"none of {MAX_LOOKAHEAD} consecutive groups can be used; the first ones:", *faults[:3]])
        )


def _have_images(drawn: Iterable[tuple[Sequence[Group], object, object]]) -> bool:
    """Whether a group of the micro-batches of a step has an image."""
    return any(group.images for groups, *_ in drawn for group in groups)


class _Lookahead(Iterator[StreamItem]):
    """An iterator whose next items can be inspected without taking them."""

    def __init__(self, items: Iterator[StreamItem]) -> None:
        self._items = items
        self._peeked: deque[StreamItem] = deque()

    def __next__(self) -> StreamItem:
        return self._peeked.popleft() if self._peeked else next(self._items)

    def peek(self, number: int) -> Iterator[Group]:
        """Yield the next `number` groups without taking them."""
        place = groups = 0
        while groups < number:
            # Items are read from the stream only when they are needed, as reading may take long.
            if place == len(self._peeked):
                self._peeked.append(next(self._items))
            item = self._peeked[place]
            place += 1
            if isinstance(item, Group):
                groups += 1
                yield item


def _take(items: Iterator[StreamItem], number: int) -> tuple[list[Group], list[RejectedRow]]:
    """Take the next `number` groups, and the rejected rows before the last of them."""
    groups: list[Group] = []
    rejected: list[RejectedRow] = []
    for item in items:
        if isinstance(item, RejectedRow):
            rejected.append(item)
        else:
            groups.append(item)
            if len(groups) == number:
                break
    return groups, rejected
