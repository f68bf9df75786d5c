"""The data of a run whose sources are read from beginning to end."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from basereward.data.encoding import Encoder
from basereward.data.group import SPLITS, Group, Lost, Split
from basereward.data.lengths import measure
from basereward.data.module import GroupDataset, PreferenceData
from basereward.data.plan import Steps
from basereward.data.screening import check_limit, write_lost
from basereward.data.sources import Source
from basereward.data.stream import GroupStream, Streamed, StreamedPasses, head
from basereward.data.tree import TreeBatch
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
        self.met: Counter[str] = Counter()

    def setup(self, stage: str | None = None) -> None:
        """Reads the held-out groups; of those to train on nothing yet."""
        if self.plan is not None:
            return
        heads = {name: _Head(source, rows=self.held_out) for name, source in self.streams.items()}
        for split in SPLITS:
            for name, source in heads.items():
                self.lengths[split][name], lost = measure(source, split, encoder=self.encoder, cache=self.cache)
                self.lost += lost
            kept = {name: lengths.index for name, lengths in self.lengths[split].items()}
            self.parts[split] = GroupDataset(heads, split, kept=kept, encoder=self.encoder)
        if self.lost_file.exists():  # of a run that goes on
            self.lost = [Lost(**json.loads(line)) for line in self.lost_file.read_text(encoding="utf-8").splitlines()]
        self.plan = self.steps

    def passes(self, stage: int, *, rank: int = 0, done: int = 0) -> DataLoader[TreeBatch]:  # type: ignore[override]
        forwards = self.steps.stage(stage)
        passes = StreamedPasses(
            self.stream,
            encoder=self.encoder,
            layout=self.layout,
            groups=self.groups_per_forward,
            first=min(max(done, forwards.start), forwards.stop),
            last=forwards.stop,
            rank=rank,
            ranks=self.steps.ranks,
        )
        return DataLoader(passes, batch_size=None, num_workers=self.workers, pin_memory=self._pins_memory())

    def on_after_batch_transfer(self, batch: TreeBatch, dataloader_idx: int) -> TreeBatch:
        """Counts what was lost on the way to a batch.

        Raises:
            TooManyRowsLost: more rows are lost than `max_lost` allows, of those met so far.
        """
        if self.trainer is not None and self.trainer.training:
            self.count(batch)
        return batch

    def count(self, batch: TreeBatch) -> None:
        """Adds a batch's groups to those met, and its lost rows to those listed, each once."""
        known = {(row.source, row.id, row.reason) for row in self.lost}
        new = [row for row in batch.lost if (row.source, row.id, row.reason) not in known]
        self.met.update(batch.sources)
        self.met.update(row.source for row in new)
        if new:
            self.lost += new
            write_lost(self.lost_file, self.lost)
        if self.met.total() >= ENOUGH:
            check_limit(self.lost, rows=self.met, max_lost=self.max_lost, listed_in=self.lost_file)


class _Head:
    """The first groups of the held-out parts of a source; none to train on."""

    def __init__(self, source: Streamed, *, rows: int) -> None:
        self.name = source.name
        self._groups: dict[Split, list[Group]] = {
            split: head(source, split, rows=rows) for split in SPLITS if split != "train"
        }

    def groups(self, split: Split) -> Sequence[Group]:
        return self._groups.get(split, [])

    def lost(self, split: Split) -> list[Lost]:
        return []
