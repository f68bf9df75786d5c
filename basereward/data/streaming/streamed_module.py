"""The data of a run whose sources are read from beginning to end."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
from basereward.data.schema.group import SPLITS, Group, RejectedRow
from basereward.data.schema.rejections import append_lost, check_limit, write_lost
from basereward.data.sources import Source
from basereward.data.streaming.micro_batches import StreamedPasses
from basereward.data.streaming.stream import GroupStream, Met, Streamed, StreamHead
from basereward.errors import DataError

logger = logging.getLogger(__name__)

ENOUGH = 1000  # rows of a source that are met before the share of lost ones is judged


class StreamedData(PreferenceData):
    """Preference groups of streamed sources.

    Args:
        sources: by name; each can be streamed.
        encoder: groups to tokens.
        steps: optimizer steps.
        weights: the share of each source; None for a single one.
        buffer, seed: of the drawing; see `GroupStream`.
        held_out: groups of each source that are validated, and as many that are tested, the first of their part.
        groups, groups_per_forward, ranks, stages, settings: as for `PreferenceData`.

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
                raise DataError(f"source '{name}' cannot be streamed; hub and jsonl can. Leave out data.streaming")
            self.streams[name] = source
        self.stream = GroupStream(self.streams, weights=weights, buffer=buffer, seed=seed)
        self.held_out = held_out
        self.steps = Steps(
            steps, groups=groups, forwards_per_step=groups // (groups_per_forward * ranks), ranks=ranks, stages=stages
        )
        self.met = Met()
        self._held_out_rows: Counter[str] = Counter()
        self._known: set[RejectedRow] = set()
        self._first: dict[str, str] = {}

    def setup(self, stage: str | None = None) -> None:
        """Reads the held-out groups; of those to train on only the first, to see that there is one.

        Raises:
            DataError: a source is malformed, or has nothing to train on.
        """
        if self.plan is not None:
            return
        for line in self.lost_file.read_text(encoding="utf-8").split("\n") if self.lost_file.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # the line that a killed run was writing is met again
                self._tell([RejectedRow(**json.loads(line))])
        heads = {name: StreamHead(source, rows=self.held_out) for name, source in self.streams.items()}
        for split in SPLITS:
            for name, source in heads.items():
                self.lengths[split][name], lost = measure(source, split, encoder=self.encoder)
                self._held_out_rows[name] += len(self.lengths[split][name]) + len(lost)
                self._tell(lost)
            kept = {name: lengths.index for name, lengths in self.lengths[split].items()}
            self.parts[split] = GroupDataset(heads, split, kept=kept, encoder=self.encoder)
        self._first = {name: combined_content(_first(source)) for name, source in self.streams.items()}
        if self.lost or self.lost_file.exists():
            write_lost(self.lost_file, self.lost)
        self.plan = self.steps

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """As of data that are read whole; of the training part the first `ENOUGH` groups stand for all."""
        return {name: parts | {"train": self._first[name]} for name, parts in super().content.items()}

    def passes(self, stage: int, *, rank: int = 0, done: int = 0) -> DataLoader[TreeBatch]:  # type: ignore[override]
        passes = StreamedPasses(
            self.stream,
            encoder=self.encoder,
            layout=self.layout,
            groups=self.groups_per_forward,
            forwards=self.steps.stage(stage),
            forwards_per_step=self.steps.forwards_per_step,
            done=done,
            rank=rank,
            ranks=self.steps.ranks,
        )
        return DataLoader(passes, batch_size=None, **self._loading())

    def step_counts(self, step: int, batch: TreeBatch) -> list[tuple[int, int]]:
        """See `PreferenceData.step_counts`. Groups that turn out to be unusable when they are encoded are counted."""
        assert batch.step_counts is not None
        return batch.step_counts

    @property
    def _timeout_s(self) -> int:
        return loading.STREAM_TIMEOUT_S

    def on_after_batch_transfer(self, batch: TreeBatch, dataloader_idx: int) -> TreeBatch:
        """Counts what was lost on the way to a batch.

        Raises:
            TooManyRowsLost: as `count`.
        """
        if self.trainer is not None and self.trainer.training:
            self.count(batch)
        return batch

    def count(self, batch: TreeBatch) -> None:
        """Lists the rows that were lost on the way to a batch, each once however often it is met.

        Raises:
            TooManyRowsLost: more rows are lost than `max_lost` allows of those that were met so far, or of the first
                `ENOUGH` even if all that are still to come are good.
        """
        assert batch.met is not None
        self.met = batch.met
        new = self._tell(batch.lost)
        if new:
            append_lost(self.lost_file, new)
        rows = self._held_out_rows + self.met.rows
        whole = self.met.ended.issuperset(name for name, weight in self.stream.weights.items() if weight)
        faults = sum(row.fault for row in self.lost)
        if whole or rows.total() >= ENOUGH or faults > self.max_lost * ENOUGH:
            judged = {name for name in self.streams if name in self.met.ended or self.met.rows[name] >= ENOUGH}
            rows = Counter({name: rows[name] for name in self.streams})
            check_limit(self.lost, rows=rows, max_lost=self.max_lost, listed_in=self.lost_file, emptied=judged)

    def _tell(self, lost: Iterable[RejectedRow]) -> list[RejectedRow]:
        """Adds rows to those that are listed; those that were not yet, come back."""
        new = [row for row in dict.fromkeys(lost) if row not in self._known]
        self._known.update(new)
        self.lost += new
        return new


def _first(source: Streamed) -> Iterator[bytes]:
    """The contents of the first `ENOUGH` training groups of a stream."""
    groups = (item for item in source.stream("train") if isinstance(item, Group))
    return (group_content(group) for group in islice(groups, ENOUGH))
