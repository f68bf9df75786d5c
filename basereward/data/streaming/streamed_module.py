"""The data module of a run with streamed sources."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from basereward.data import loading
from basereward.data.batching.dataset import GroupDataset
from basereward.data.batching.plan import Steps
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.content_hash import combined_content, group_content
from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import measure
from basereward.data.module import PreferenceData
from basereward.data.schema.group import SPLITS, Group, RejectedRow, Split
from basereward.data.schema.rejections import append_rejections, check_limit, write_rejections
from basereward.data.sources import Source
from basereward.data.streaming.micro_batches import StreamedMicroBatches
from basereward.data.streaming.stream import GroupStream, Streamed, StreamHead, StreamPosition
from basereward.errors import DataError
from basereward.io.processes import this_rank

logger = logging.getLogger(__name__)

# Rows that are read before the fraction of rejected rows is compared with `max_lost`. With fewer rows, a few faults at
# the beginning would stop a run whose data are good.
ENOUGH = 1000


class StreamedData(PreferenceData):
    """A data module with streamed preference groups.

    Args:
        sources: the sources by name; all of them must support streaming.
        encoder: encodes groups.
        steps: the number of optimizer steps.
        weights: the weight of each source; None: equal weights.
        buffer, seed: see `GroupStream`.
        held_out: the number of groups of each source for validation, and for the test; the first ones of the split.
        groups, groups_per_forward, ranks, stages, settings: see `PreferenceData`.

    Raises:
        DataError: a source cannot be streamed.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        encoder: Encoder,
        steps: int,
        weights: Mapping[str, float] | None = None,
        buffer: int = 1000,
        held_out: int = 500,
        seed: int = 0,
        groups: int = 128,
        groups_per_forward: int = 8,
        ranks: int = 1,
        stages: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(sources, encoder=encoder, groups_per_forward=groups_per_forward, **settings)
        self.streams: dict[str, Streamed] = {}
        for name, source in sources.items():
            if not isinstance(source, Streamed):
                raise DataError(
                    f"source '{name}' cannot be streamed; hub and jsonl can. Remove data.streaming from the recipe"
                )
            self.streams[name] = source
        self.stream = GroupStream(self.streams, weights=weights, buffer=buffer, seed=seed)
        self.held_out = held_out
        self.steps = Steps(
            steps, groups=groups, forwards_per_step=groups // (groups_per_forward * ranks), ranks=ranks, stages=stages
        )
        self.stream_position = StreamPosition()
        self._held_out_rows: Counter[str] = Counter()
        self._listed: set[RejectedRow] = set()
        self._first_content: dict[str, str] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the held-out groups, and check that each source has a group to train on.

        Raises:
            DataError: a source is malformed, or has nothing to train on.
        """
        if self.plan is not None:
            return
        self._read_rejections_file()
        heads = {name: StreamHead(source, rows=self.held_out) for name, source in self.streams.items()}
        for split in SPLITS:
            self._measure_split(split, heads)
        # Of the whole stream, a hash would take a complete pass over it before training.
        self._first_content = {name: combined_content(_first_groups(source)) for name, source in self.streams.items()}
        if (self.rejected or self.rejections_file.exists()) and this_rank().is_first:
            write_rejections(self.rejections_file, self.rejected)
        self.plan = self.steps

    def _read_rejections_file(self) -> None:
        """Add the rejected rows that a resumed run listed before it ended."""
        if not self.rejections_file.exists():
            return
        # Not `splitlines`, which also splits at Unicode line separators inside of a JSON string.
        for line in self.rejections_file.read_text(encoding="utf-8").split("\n"):
            # A killed run may leave an incomplete line. Its row is read and rejected again.
            with contextlib.suppress(json.JSONDecodeError):
                self._add_rejected([RejectedRow(**json.loads(line))])

    def _measure_split(self, split: Split, heads: Mapping[str, StreamHead]) -> None:
        """Measure the first groups of a held-out split, and build its data set."""
        for name, source in heads.items():
            self.lengths[split][name], rejected = measure(source, split, encoder=self.encoder)
            self._held_out_rows[name] += len(self.lengths[split][name]) + len(rejected)
            self._add_rejected(rejected)
        kept = {name: lengths.index for name, lengths in self.lengths[split].items()}
        self.parts[split] = GroupDataset(heads, split, kept=kept, encoder=self.encoder)

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """See `PreferenceData.content`. For the train split, the hash covers only the first `ENOUGH` groups."""
        return {name: splits | {"train": self._first_content[name]} for name, splits in super().content.items()}

    def stage_loader(self, stage: int, *, rank: int = 0, done: int = 0) -> DataLoader[TreeBatch]:  # type: ignore[override]
        """See `PreferenceData.stage_loader`."""
        micro_batches = StreamedMicroBatches(
            self.stream,
            encoder=self.encoder,
            layout=self.layout,
            unit=self.unit,
            groups=self.groups_per_forward,
            forwards=self.steps.stage(stage),
            forwards_per_step=self.steps.forwards_per_step,
            done=done,
            rank=rank,
            ranks=self.steps.ranks,
        )
        return DataLoader(micro_batches, batch_size=None, **self._loading())

    def on_before_batch_transfer(self, batch: TreeBatch, dataloader_idx: int) -> TreeBatch:
        """Nothing to add: the batches of a stream come with the totals of their step."""
        return batch

    @property
    def _timeout_s(self) -> int:
        return loading.STREAM_TIMEOUT_S

    def on_after_batch_transfer(self, batch: TreeBatch, dataloader_idx: int) -> TreeBatch:
        """Count the rejected rows of a training batch.

        Raises:
            TooManyRowsLost: as `count`.
        """
        # Batches for validation come from the held-out groups, whose rejected rows were listed in `setup`.
        if self.trainer is not None and self.trainer.training:
            self.count(batch)
        return batch

    def count(self, batch: TreeBatch) -> None:
        """List the rejected rows of a batch, each only once.

        Raises:
            TooManyRowsLost: more rows are rejected than `max_lost` allows for those read so far. With fewer than
                `ENOUGH` rows, only if the limit for `ENOUGH` rows is exceeded already.
        """
        assert batch.stream is not None
        self.stream_position = batch.stream.position
        self._list(self._add_rejected(batch.stream.rejected))
        # `+` of counters drops sources without rows, which `check_limit` must see, too.
        read = self._held_out_rows + self.stream_position.rows
        if self._can_judge(num_rows=read.total()):
            rows = Counter({name: read[name] for name in self.streams})
            judged = {name for name in self.streams if self._is_representative(name)}
            check_limit(
                self.rejected, rows=rows, max_lost=self.max_lost, listed_in=self.rejections_file, emptied=judged
            )

    def share_rejections(self, gather: Callable[[list[RejectedRow]], Iterable[list[RejectedRow]]]) -> None:
        """Add the rejected rows of the other ranks; each rank encodes, and so rejects, rows of its own micro-batches.

        Args:
            gather: gives the values of all ranks for the value of this one.
        """
        for rejected in gather(self.rejected):
            self._list(self._add_rejected(rejected))

    def _list(self, rejected: Sequence[RejectedRow]) -> None:
        """Append rejected rows to their file."""
        if rejected and this_rank().is_first:
            append_rejections(self.rejections_file, rejected)

    def _can_judge(self, *, num_rows: int) -> bool:
        """Whether enough rows are read, or enough faults occurred, to compare the fraction with `max_lost`."""
        if num_rows >= ENOUGH:
            return True
        if sum(row.fault for row in self.rejected) > self.max_lost * ENOUGH:
            return True
        # Small sources may end before `ENOUGH` rows. One with a weight of 0 is never read, so it does not end.
        used = [name for name, weight in self.stream.weights.items() if weight]
        return self.stream_position.ended.issuperset(used)

    def _is_representative(self, name: str) -> bool:
        """Whether so much of a source is read that it counts as unusable if all its rows were rejected."""
        return name in self.stream_position.ended or self.stream_position.rows[name] >= ENOUGH

    def _add_rejected(self, rows: Iterable[RejectedRow]) -> list[RejectedRow]:
        """Add rejected rows, and return those that are new."""
        # A row is rejected again in every turn of its stream, and after a run is resumed.
        new = [row for row in dict.fromkeys(rows) if row not in self._listed]
        self._listed.update(new)
        self.rejected += new
        return new


def _first_groups(source: Streamed) -> Iterator[bytes]:
    """Yield the content hashes of the first `ENOUGH` training groups of a stream."""
    groups = (item for item in source.stream("train") if isinstance(item, Group))
    return (group_content(group) for group in islice(groups, ENOUGH))
