"""The data of a run: screened, mixed, encoded and batched, for training, validation and test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from basereward.data.encoding import EncodedGroup, Encoder
from basereward.data.group import SPLITS, Group, Lost, Split
from basereward.data.mixture import Mixture, Stop
from basereward.data.plan import Place, Plan, StageSampler
from basereward.data.screening import RowLost, check_limit, screen, summary, write_lost
from basereward.data.sources import Source
from basereward.data.tree import Layout, TreeBatch, collate
from basereward.data.usable import check_usable
from basereward.errors import DataError

logger = logging.getLogger(__name__)


class PreferenceData(LightningDataModule):
    """Preference groups of several sources.

    Args:
        sources: by name.
        encoder: groups to tokens.
        weights, limits, stop: the mixture's; see `Mixture`.
        seed: of the order.
        groups, groups_per_forward, epochs, steps, stages: the plan's; see `Plan`.
        layout: of the rows of a batch.
        workers: processes that load data; 0 loads in the training process.
        max_lost: a larger share of lost rows stops the run before training.
        lost_file: where lost rows are listed.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        encoder: Encoder,
        weights: Mapping[str, float] | None = None,
        limits: Mapping[str, int] | None = None,
        stop: Stop = "all_exhausted",
        seed: int = 0,
        groups: int = 128,
        groups_per_forward: int = 8,
        ranks: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        stages: int = 1,
        layout: Layout = "tree",
        workers: int = 0,
        max_lost: float = 0.01,
        lost_file: Path | str = "lost.jsonl",
    ) -> None:
        super().__init__()
        self.sources = dict(sources)
        self.encoder = encoder
        self._mixture: dict[str, Any] = {"weights": weights, "limits": limits, "stop": stop, "seed": seed}
        self._plan: dict[str, Any] = {"groups": groups, "groups_per_forward": groups_per_forward, "ranks": ranks}
        self._plan |= {"epochs": epochs, "steps": steps, "stages": stages}
        self.groups_per_forward = groups_per_forward
        self.layout = layout
        self.workers = workers
        self.max_lost = max_lost
        self.lost_file = Path(lost_file)
        self.lost: list[Lost] = []
        self.parts: dict[Split, GroupDataset] = {}
        self.plan: Plan | None = None
        self._done = 0

    def setup(self, stage: str | None = None) -> None:
        """Tries every group once, lists those that cannot be used, and plans the run. Later calls change nothing.

        Raises:
            TooManyRowsLost: more rows are lost than `max_lost` allows.
            DataError: a source is malformed.
        """
        if self.plan is not None:
            return
        rows: dict[str, int] = {}
        kept: dict[Split, dict[str, NDArray[np.int64]]] = {split: {} for split in SPLITS}
        for name, source in self.sources.items():
            for split in SPLITS:
                kept[split][name], lost = screen(source, split, measure=self._measure)
                rows[name] = rows.get(name, 0) + len(kept[split][name]) + len(lost)
                self.lost += lost
        if self.lost:
            write_lost(self.lost_file, self.lost)
            logger.warning("%d of %d rows are lost: %s; listed in %s", *self._loss(rows))
        check_limit(self.lost, rows=rows, max_lost=self.max_lost, listed_in=self.lost_file)
        for split in SPLITS:
            self.parts[split] = GroupDataset(self.sources, split, kept=kept[split], encoder=self.encoder)
        sizes = {name: len(indices) for name, indices in kept["train"].items()}
        self.plan = Plan(Mixture(sizes, **self._mixture), **self._plan)

    def _loss(self, rows: Mapping[str, int]) -> tuple[int, int, dict[str, dict[str, int]], Path]:
        return len(self.lost), sum(rows.values()), self.skipped, self.lost_file

    def _measure(self, group: Group) -> EncodedGroup:
        check_usable(group)
        return self.encoder(group)

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Lost rows by source and reason."""
        return summary(self.lost)

    def train_dataloader(self) -> DataLoader[EncodedGroup]:
        assert self.plan is not None
        assert self.trainer is not None
        done, self._done = self._done, 0
        sampler = StageSampler(self.plan, self.trainer.current_epoch, rank=self.trainer.global_rank, done=done)
        return self._loader(self.parts["train"], batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[EncodedGroup]:
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader[EncodedGroup]:
        return self._held_out("test")

    def _held_out(self, split: Split) -> DataLoader[EncodedGroup]:
        assert self.trainer is not None
        places = self.parts[split].places[self.trainer.global_rank :: self.trainer.world_size]
        size = self.groups_per_forward
        batches = [places[i : i + size] for i in range(0, len(places), size)]
        return self._loader(self.parts[split], batch_sampler=batches)

    def _loader(self, dataset: GroupDataset, *, batch_sampler: Any) -> DataLoader[EncodedGroup]:
        to_batch: Callable[[Sequence[EncodedGroup]], TreeBatch] = partial(
            collate, layout=self.layout, pad_id=self.encoder.pad_id
        )
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=to_batch,
            num_workers=self.workers,
            pin_memory=self.trainer is not None and self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        )

    def state_dict(self) -> dict[str, int]:
        """How many forward passes are done: with the recipe, all that is needed to go on with the next one."""
        assert self.plan is not None
        assert self.trainer is not None
        return {"forwards_done": self.trainer.global_step * self.plan.forwards_per_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._done = state_dict["forwards_done"]


class GroupDataset(Dataset[EncodedGroup]):
    """The usable groups of one part, encoded when they are asked for."""

    def __init__(
        self, sources: Mapping[str, Source], split: Split, *, kept: Mapping[str, NDArray[np.int64]], encoder: Encoder
    ) -> None:
        self.names = list(sources)
        self.groups = {name: source.groups(split) for name, source in sources.items()}
        self.kept = dict(kept)
        self.encoder = encoder

    @property
    def places(self) -> list[Place]:
        """Every group, source after source."""
        return [(s, row) for s, name in enumerate(self.names) for row in range(len(self.kept[name]))]

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.kept.values())

    def __getitem__(self, place: Place) -> EncodedGroup:
        name = self.names[place[0]]
        group = self.groups[name][int(self.kept[name][place[1]])]
        try:
            return self.encoder(group)
        except RowLost as loss:
            raise DataError(
                f"group '{group.id}' of source '{name}' could be read when the run began and cannot be read now "
                f"({loss.reason}: {loss.detail}). Put the file back and resume the run."
            ) from loss
