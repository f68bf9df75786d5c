"""The data module of a run: checks, mixes, encodes and batches groups for training, validation and test."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from basereward.cluster.shards import ShardedRows
from basereward.data import loading
from basereward.data.batching.collate import collate
from basereward.data.batching.dataset import GroupDataset
from basereward.data.batching.loss_units import Unit, count_units, group_counts
from basereward.data.batching.packing import RowSize, pack_in_order
from basereward.data.batching.plan import Modality, Place, Plan, StageSampler, Steps
from basereward.data.batching.pooled import PooledDataset, collate_pooled
from basereward.data.batching.step_totals import StepTotals
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.curation.curate import Curated, Curation
from basereward.data.curation.duplicates import PlacedGroup
from basereward.data.curation.sharded import PlacedGroups, ShardedCuration
from basereward.data.encoding.content_hash import content_differences, encoder_hashes, hash_differences
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.encoding.lengths import Lengths, measure
from basereward.data.mixing.mixture import Mixture, Stop
from basereward.data.schema.group import SPLITS, RejectedRow, Split
from basereward.data.schema.rejections import check_limit, summary, write_rejections
from basereward.data.sources import Source
from basereward.errors import DataError
from basereward.io.processes import this_rank
from basereward.io.progress import track

logger = logging.getLogger(__name__)


PooledStatesOf: TypeAlias = "Callable[[PreferenceData, Mapping[Split, PooledDataset]], Mapping[Split, PooledDataset]]"
"""Gives the pooled states of every split, which a probe reads instead of tokens and images.

The last argument holds the states of an earlier plan of the same groups; they may be enough.
"""


class PreferenceData(LightningDataModule):
    """A Lightning data module with preference groups of several sources.

    Args:
        sources: the sources by name.
        encoder: encodes groups.
        weights, limits, passes, stop, seed: see `Mixture`.
        groups, groups_per_forward, budget, modality, ranks, epochs, steps, stages: see `Plan`.
        layout: the layout of the batches.
        unit: the unit of the ranking loss; training batches get its number in their optimizer step.
        workers: worker processes of the data loaders; 0 loads in the training process.
        prefetch: batches that each worker prepares in advance; None: 2.
        max_lost: the largest fraction of rejected rows, 0 to 1; a larger one stops the run before training.
        rejections_file: the file that lists rejected rows.
        cache: the folder with the lengths of the groups; None: lengths are not cached.
        curation: removes training groups or changes their preferences; None: nothing is changed.
        rows: a cluster that measures and curates groups in shards; None: this machine.

    Attributes:
        rejected: the rejected rows, after `setup`.
        lengths: the lengths of the usable groups by split and source, after `setup`.
        plan: the plan of the run, after `setup`.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        encoder: Encoder,
        weights: Mapping[str, float] | None = None,
        limits: Mapping[str, int] | None = None,
        passes: Mapping[str, float] | None = None,
        stop: Stop = "all_exhausted",
        seed: int = 0,
        groups: int = 128,
        groups_per_forward: int = 8,
        budget: int | None = None,
        modality: Modality = "mixed",
        ranks: int = 1,
        epochs: float = 1.0,
        steps: int | None = None,
        stages: int = 1,
        layout: Layout = "tree",
        unit: Unit = "group",
        workers: int = 0,
        prefetch: int | None = None,
        max_lost: float = 0.01,
        rejections_file: Path | str = "lost.jsonl",
        cache: Path | None = None,
        curation: Curation | None = None,
        rows: ShardedRows | None = None,
    ) -> None:
        super().__init__()
        self.sources = dict(sources)
        self.encoder = encoder
        self._mixture: dict[str, Any] = {
            "weights": weights,
            "limits": limits,
            "passes": passes,
            "stop": stop,
            "seed": seed,
        }
        self._plan: dict[str, Any] = {"groups": groups, "groups_per_forward": groups_per_forward, "ranks": ranks}
        self._plan |= {"epochs": epochs, "steps": steps, "stages": stages, "budget": budget, "modality": modality}
        self.groups_per_forward = groups_per_forward
        self.budget = budget
        self.cache = cache
        self.curation = curation
        self._rows = rows
        self.curated = Curated()
        self.layout = layout
        self.unit = unit
        self.workers = workers
        self.prefetch = prefetch
        self.max_lost = max_lost
        self.rejections_file = Path(rejections_file)
        self.rejected: list[RejectedRow] = []
        self.lengths: dict[Split, dict[str, Lengths]] = {split: {} for split in SPLITS}
        self.parts: dict[Split, GroupDataset] = {}
        self._probe_states: PooledStatesOf | None = None
        self._pooled: dict[Split, PooledDataset] = {}
        self._pooled_now = False  # whether the pooled states are those of this plan
        self.plan: Steps | None = None
        self._done = 0  # micro-batches that a resumed run has done
        self._step_totals: tuple[int, StepTotals] | None = None  # of the last step that was asked for

    def setup(self, stage: str | None = None) -> None:
        """Check every group once, list the rejected rows, and plan the run. Later calls have no effect.

        Raises:
            TooManyRowsLost: more rows are rejected than `max_lost` allows.
            DataError: a source is malformed.
        """
        # Lightning calls `setup` before every fit and test.
        if self.plan is not None:
            return
        rows: dict[str, int] = {}
        for name, source in self.sources.items():
            for split in SPLITS:
                self.lengths[split][name], rejected = self._measure(source, split)
                rows[name] = rows.get(name, 0) + len(self.lengths[split][name]) + len(rejected)
                self.rejected += rejected
        if self.curation is not None:
            self._curate(self.curation)
        if self.rejected and this_rank().is_first:
            write_rejections(self.rejections_file, self.rejected)
            logger.warning(
                "%d of %d rows are lost: %s; listed in %s",
                len(self.rejected), sum(rows.values()), self.skipped, self.rejections_file,
            )  # fmt: skip
        check_limit(self.rejected, rows=rows, max_lost=self.max_lost, listed_in=self.rejections_file)
        for split in SPLITS:
            kept = {name: lengths.index for name, lengths in self.lengths[split].items()}
            changed = self.curated.preferences if split == "train" else None
            self.parts[split] = GroupDataset(self.sources, split, kept=kept, encoder=self.encoder, changed=changed)
        self.plan = self._planned()

    def _planned(self) -> Plan:
        sizes = {name: len(lengths) for name, lengths in self.lengths["train"].items()}
        return Plan(Mixture(sizes, **self._mixture), lengths=self.lengths["train"], **self._plan)

    def replanned(
        self, *, rejections_file: Path, unit: Unit, seed: int, epochs: float, steps: int | None, stages: int
    ) -> PreferenceData:
        """Return the data of another run on the same groups, after `setup`; they are not checked again."""
        # The copy shares the groups and their lengths, which take minutes to read.
        other = copy.copy(self)
        other._mixture = self._mixture | {"seed": seed}
        other._plan = self._plan | {"epochs": epochs, "steps": steps, "stages": stages}
        other.plan = other._planned()
        other.rejections_file, other.unit, other._done = rejections_file, unit, 0
        other._step_totals = None
        other._pooled_now = False
        if other.rejected and this_rank().is_first:
            write_rejections(rejections_file, other.rejected)
        return other

    def with_pooled_states(self, states_of: PooledStatesOf) -> PreferenceData:
        """Return data whose batches have pooled states in place of tokens and images.

        Args:
            states_of: called when the first batch is read.
        """
        other = copy.copy(self)
        other._probe_states = states_of
        other._pooled_now = False
        return other

    def pooled(self, split: Split) -> PooledDataset | None:
        """Return the groups of a split with pooled states; None if batches have tokens and images."""
        if self._probe_states is None:
            return None
        if not self._pooled_now:
            # All splits at once: a group that fails stops the run before the training, and not before the test.
            self._pooled.update(self._probe_states(self, self._pooled))
            self._pooled_now = True
        return self._pooled[split]

    def _curate(self, curation: Curation) -> None:
        trained = self.lengths["train"]

        def placed() -> Iterator[PlacedGroup]:
            for name, lengths in trained.items():
                groups = self.sources[name].groups("train")
                yield from ((name, index, groups[index]) for index in lengths.index.tolist())

        total = sum(map(len, trained.values()))
        sharded = None if self._rows is None else ShardedCuration(self.placed(), self._rows)
        self.curated = curation(lambda: track(placed(), "comparing rows", total=total), sharded=sharded)
        self.rejected += self.curated.rejected.values()
        for name, lengths in trained.items():
            kept = [(name, index) not in self.curated.rejected for index in lengths.index.tolist()]
            trained[name] = lengths.only(np.array(kept, bool))

    def placed(self) -> PlacedGroups:
        """The usable training groups of all sources, in the order in which they are curated."""
        trained = self.lengths["train"].items()
        return PlacedGroups([(name, self.sources[name].groups("train"), lengths.index) for name, lengths in trained])

    def _measure(self, source: Source, split: Split) -> tuple[Lengths, list[RejectedRow]]:
        options: dict[str, Any] = {"workers": self.workers, "cache": self.cache, "rows": self._rows}
        lengths, rejected = measure(source, split, encoder=self.encoder, **options)
        if self.budget is None:
            return lengths, rejected
        fits = lengths.tokens <= self.budget
        groups = source.groups(split)
        for index, tokens in zip(lengths.index[~fits].tolist(), lengths.tokens[~fits].tolist(), strict=True):
            detail = f"{tokens} tokens with all its responses; batch.tokens allows {self.budget} a forward pass"
            rejected.append(RejectedRow(source.name, split, groups[index].id, "above_batch_tokens", detail))
        return lengths.only(fits), rejected

    def list_rejections_in(self, file: Path) -> None:
        """List the rejected rows in another file, also those that a stream rejects later."""
        self.rejections_file = file
        if self.rejected:
            write_rejections(file, self.rejected)

    def replace_encoder(self, encoder: Encoder) -> None:
        """Encode groups with another encoder from now on. It must give every group the same tokens.

        Args:
            encoder: for example the same encoder with a cache of image features, which is known only after `setup`.
        """
        self.encoder = encoder
        self.parts = {split: part.with_encoder(encoder) for split, part in self.parts.items()}

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """The number of rejected rows by source and reason."""
        return summary(self.rejected)

    def train_dataloader(self) -> DataLoader[EncodedGroup]:
        """The micro-batches of the current stage; Lightning asks for them anew in every stage."""
        assert self.plan is not None
        assert self.trainer is not None
        # Only the first stage after a resume begins in its middle.
        done, self._done = self._done, 0
        return self.stage_loader(self.trainer.current_epoch, rank=self.trainer.global_rank, done=done)

    def stage_loader(self, stage: int, *, rank: int = 0, done: int = 0) -> DataLoader[EncodedGroup]:
        """Return the micro-batches of one stage on one rank.

        They do not depend on the number of workers, nor on where the run was interrupted.

        Args:
            stage: the index of the stage.
            rank: the process.
            done: micro-batches of the run that are done; the loader begins after them.
        """
        assert isinstance(self.plan, Plan)
        return self._loader("train", batch_sampler=StageSampler(self.plan, stage, rank=rank, done=done))

    def on_before_batch_transfer(self, batch: TreeBatch, dataloader_idx: int) -> TreeBatch:
        """Add the totals of the optimizer step to a training batch."""
        if self.trainer is None or not self.trainer.training:
            return batch
        return replace(batch, step=self.step_totals(self.trainer.global_step))

    def transfer_batch_to_device(self, batch: TreeBatch, device: torch.device, dataloader_idx: int) -> TreeBatch:
        """Copy a batch to the device without waiting for each tensor, as Lightning does for tensors alone."""
        return batch.to(device, non_blocking=True)

    def step_totals(self, step: int) -> StepTotals:
        """The number of micro-batches, groups and units of an optimizer step, over all ranks.

        Args:
            step: the index of the step.
        """
        if self._step_totals is None or self._step_totals[0] != step:
            plan = self.plan
            assert plan is not None
            # The plan knows the number of groups; for another unit the preferences of all groups are read.
            units = plan.groups if self.unit == "group" else count_units(self.unit, self._step_counts(step))
            # One process knows its own images.
            images = plan.ranks == 1 or self._step_has_images(step)
            totals = StepTotals(plan.forwards_per_step * plan.ranks, plan.groups, units, images)
            self._step_totals = step, totals
        return self._step_totals[1]

    def _step_has_images(self, step: int) -> bool:
        """Whether a group of an optimizer step has an image, on any rank."""
        names, lengths = self.parts["train"].names, self.lengths["train"]
        return any(lengths[names[source]].images[row] > 0 for source, row in self._step_places(step))

    def _step_counts(self, step: int) -> list[tuple[int, int]]:
        """The number of preferences and of ties of each group of an optimizer step."""
        pooled = self.pooled("train")
        counts = []
        for place in self._step_places(step):
            if pooled is not None:
                preferences = pooled.groups[place].preferences
            else:
                preferences = self.parts["train"].group(place).preferences
            counts.append(group_counts(preferences))
        return counts

    def _step_places(self, step: int) -> Iterator[Place]:
        plan = self.plan
        assert isinstance(plan, Plan)
        first = step * plan.forwards_per_step
        for index in range(first, first + plan.forwards_per_step):
            for rank in range(plan.ranks):
                yield from plan.forward(index, rank=rank)

    def val_dataloader(self) -> DataLoader[EncodedGroup]:
        """The validation groups, always in the same order."""
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader[EncodedGroup]:
        """The test groups, always in the same order."""
        return self._held_out("test")

    def _held_out(self, split: Split) -> DataLoader[EncodedGroup]:
        assert self.trainer is not None
        return self._loader(split, batch_sampler=self.held_out_passes(split)[0])

    def held_out_passes(self, split: Split) -> tuple[list[list[Place]], int]:
        """The forward passes of this rank over a held-out split, and how many of them count.

        Every rank gets its own groups. The last pass is repeated until all ranks have equally many, because ranks that
        divide a model among them pass through its layers together. Repeated passes do not count.

        Args:
            split: the split.
        """
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        places = self.parts[split].places
        passes = [self.batches(split, places[number::ranks]) for number in range(ranks)]
        most = max(map(len, passes))
        own = passes[rank]
        # A split may have fewer groups than there are ranks.
        repeated = own[-1:] or passes[0][-1:]
        return [*own, *repeated * (most - len(own))], len(own)

    def batches(self, split: Split, places: Sequence[Place]) -> list[list[Place]]:
        """Combine groups to batches in their order, within the budget or with `groups_per_forward` each."""
        if self.budget is None:
            size = self.groups_per_forward
            return [list(places[i : i + size]) for i in range(0, len(places), size)]
        names, lengths = self.parts[split].names, self.lengths[split]
        return list(
            pack_in_order(
                places,
                budget=self.budget,
                size_of=lambda place: RowSize(int(lengths[names[place[0]]].tokens[place[1]])),
            )
        )

    @property
    def collate(self) -> Callable[[Sequence[EncodedGroup]], TreeBatch]:
        """The function that makes a batch of groups. A method would pickle the whole module for the workers."""
        return partial(collate, layout=self.layout, pad_id=self.encoder.pad_id)

    def _loader(self, split: Split, *, batch_sampler: Any) -> DataLoader[Any]:
        pooled = self.pooled(split)
        if pooled is None:
            return self.loader(split, batches=batch_sampler)
        # Without workers: reading a pooled state is less work than sending it between processes.
        return DataLoader(
            pooled,
            batch_sampler=batch_sampler,
            collate_fn=collate_pooled,
            pin_memory=self._pins_memory(),
        )

    def loader(self, split: Split, *, batches: Any) -> DataLoader[EncodedGroup]:
        """Return a loader of batches with the groups at the given places."""
        return DataLoader(self.parts[split], batch_sampler=batches, collate_fn=self.collate, **self._loading())

    def _loading(self) -> dict[str, Any]:
        """Return the options of every `DataLoader` with encoded groups."""
        prefetch = self.prefetch if self.workers else None  # torch accepts no prefetch factor without workers
        timeout = self._timeout_s if self.workers else 0
        return {
            "num_workers": self.workers,
            "prefetch_factor": prefetch,
            "pin_memory": self._pins_memory(),
            "timeout": timeout,
            "worker_init_fn": loading.end_with_training,
        }

    @property
    def _timeout_s(self) -> int:
        return loading.TIMEOUT_S

    def _pins_memory(self) -> bool:
        return self.trainer is not None and self.trainer.accelerator.__class__.__name__ == "CUDAAccelerator"

    def state_dict(self) -> dict[str, Any]:
        """Return the number of optimizer steps done, which is the position in the plan, and hashes of the data."""
        assert self.plan is not None
        assert self.trainer is not None
        return {
            # Steps and not micro-batches: a run may resume on another number of ranks.
            "steps_done": self.trainer.global_step,
            "groups": self._marks,
            "content": self.content,
            "encoder": encoder_hashes(self.encoder),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the optimizer steps that are done.

        Checkpoints of earlier versions contain the number of micro-batches instead, of one rank, and some only the
        lengths of the groups, which are then compared.

        Raises:
            DataError: the groups or the encoder differ from those at the start of the run; the message names the parts
                that differ.
        """
        if faults := hash_differences(state_dict.get("encoder", {}), encoder_hashes(self.encoder)):
            raise DataError(
                f"the rows would be encoded differently than before: {'; '.join(faults)}. A run can only be resumed "
                "with its own backbone: restore it, or start a new run without --resume"
            )
        if faults := content_differences(state_dict.get("content", {}), self.content):
            raise DataError(
                f"{'; '.join(faults)}. The data of the recipe have changed. A run can only be resumed with its own "
                "data: restore them, or start a new run without --resume"
            )
        if changed := [name for name, mark in self._marks.items() if mark != state_dict["groups"].get(name)]:
            raise DataError(
                f"the groups of {', '.join(changed)} are not those that the run began with: the data of the recipe "
                "have changed. A run can only be resumed with its own data: restore them, or remove the run's folder "
                "and start a new run"
            )
        assert self.plan is not None
        if "steps_done" in state_dict:
            self._done = state_dict["steps_done"] * self.plan.forwards_per_step
        else:
            self._done = state_dict["forwards_done"]

    @property
    def content(self) -> dict[str, dict[str, str]]:
        """A hash of the groups of each split (texts, preferences, images and annotations), by source."""
        content: dict[str, dict[str, str]] = {}
        for name in self.sources:
            content[name] = {split: lengths[name].content for split, lengths in self.lengths.items() if name in lengths}
        return content

    @property
    def _marks(self) -> dict[str, str]:
        marks = {}
        for name in self.sources:
            # A split of a streamed source may have no lengths.
            marks[name] = " ".join(lengths[name].mark for lengths in self.lengths.values() if name in lengths)
        return marks
