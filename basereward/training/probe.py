"""The pooled states that a probe trains on: computed once for all groups that it reads, and kept.

Shapes: R responses of some groups, D channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from basereward.data.batching.plan import Place, Plan
from basereward.data.batching.pooled import PooledDataset, PooledGroup
from basereward.data.batching.pooled_store import PooledStates, PooledStore
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.content_hash import encoded_content
from basereward.data.module import PreferenceData
from basereward.data.schema.group import SPLITS, Preference, Split
from basereward.io.cache import cache_folder
from basereward.model.determinism_key import machine
from basereward.model.reward_model import RewardModel
from basereward.recipe.schema import Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

TOGETHER = 256  # groups whose states are kept in one file; a stopped computation loses at most so many
TOLD_S = 30.0  # seconds between lines that say how far it is

ProbePass = list[Place]


def pool(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> None:
    """Gives the data the pooled states of every group that the run reads, in place of tokens and pictures.

    States are those of the model in evaluation: a frozen backbone has no use for dropout. Groups go through it in
    passes that depend on the recipe alone, so that a run has the same bits whatever was kept before it.

    Args:
        model: its backbone is not trained; it is moved to the device.
        data: set up.
    """
    store = PooledStore(cache_folder() / "pooled", setting=setting(recipe, model=model, data=data, device=device))
    work = _Work(model, data, store, device, mixed=recipe.trainer.precision == "bf16-mixed")
    for split in SPLITS:
        places = read_places(data, split)
        if split not in data.pooled or data.pooled[split].groups.keys() != set(places):
            data.pooled[split] = _pooled(split, places, work=work)


def setting(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> str:
    """Everything besides the groups that the bits of their pooled states depend on, as a hash."""
    encoder, backbone = data.encoder, model.backbone
    # Of section `model` all but what the weights tell by themselves, and what is trained on top.
    backbone_keys = ("path", "revision", "make", "freeze", "gradient_checkpointing", "checkpoint_layers")
    section = dataclasses.asdict(recipe.model) | {"head": None, "lora": None}
    section["backbone"] = {key: value for key, value in section["backbone"].items() if key not in backbone_keys}
    parts = (
        *(section, backbone.origin.fingerprint, sorted(backbone.origin.hashes.items())),
        backbone.transformer.config.to_json_string(),
        *(encoder.fingerprint, type(encoder.image_processor).__qualname__, recipe.batch.layout),
        *(recipe.trainer.precision, recipe.trainer.deterministic, *machine(device)),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_places(data: PreferenceData, split: Split) -> list[Place]:
    """The groups whose states a run needs, source after source.

    Of a source of which most groups are trained on all are taken: so other seeds and lengths of a run find them.
    """
    every = data.parts[split].places
    if split != "train":
        return every
    assert isinstance(data.plan, Plan)
    plan = data.plan
    passes = range(plan.steps * plan.forwards_per_step)
    read = {place for index in passes for rank in range(plan.ranks) for place in plan.forward(index, rank=rank)}
    found = []
    for source in range(len(data.parts[split].names)):
        whole = [place for place in every if place[0] == source]
        needed = sorted(place for place in read if place[0] == source)
        found += whole if 2 * len(needed) > len(whole) else needed
    return found


class _Chunk(NamedTuple):
    """Groups whose states are kept in one file."""

    key: str
    passes: list[ProbePass]
    groups: list[PooledLookup]  # in their order


class PooledLookup(NamedTuple):
    """What is kept in memory of a group, besides its states."""

    place: Place
    id: str
    source: str
    preferences: tuple[Preference, ...]
    responses: int


def _pooled(split: Split, places: Sequence[Place], *, work: _Work) -> PooledDataset:
    """The part with its states: those that were kept, and the others computed in their order."""
    chunks = list(_chunks(work.data, split, places, store=work.store))
    found = {chunk.key: states for chunk in chunks if (states := work.store.find(chunk.key)) is not None}
    missing = {chunk.key: chunk for chunk in chunks if chunk.key not in found}
    number = sum(len(chunk.groups) for chunk in missing.values())
    logger.info("pooled states of %s: %d of %d groups to compute", split, number, len(places))
    found |= work.compute(split, list(missing.values()))
    return PooledDataset(dict(each for chunk in chunks for each in _shared_out(chunk, found[chunk.key])))


def _chunks(data: PreferenceData, split: Split, places: Sequence[Place], *, store: PooledStore) -> Iterator[_Chunk]:
    """Forward passes in their order, as many together as have `TOGETHER` groups. Pictures are let go of at once."""
    passes: list[ProbePass] = []
    contents: list[list[bytes]] = []
    known: list[PooledLookup] = []
    for each in data.batches(split, places):
        groups = [data.parts[split].group(place) for place in each]
        passes.append(each)
        contents.append([encoded_content(group) for group in groups])
        known += [
            PooledLookup(place, group.id, group.source, group.preferences, len(group.responses))
            for place, group in zip(each, groups, strict=True)
        ]
        if len(known) >= TOGETHER:
            yield _Chunk(store.key(contents), passes, known)
            passes, contents, known = [], [], []
    if known:
        yield _Chunk(store.key(contents), passes, known)


def _shared_out(chunk: _Chunk, pooled: PooledStates) -> Iterator[tuple[Place, PooledGroup]]:
    """The states of a file by group."""
    counts = [group.responses for group in chunk.groups]
    states = torch.split(torch.from_numpy(pooled.states), counts)
    lengths = torch.split(torch.from_numpy(pooled.lengths), counts)
    for group, length, own in zip(chunk.groups, lengths, states, strict=True):
        yield group.place, PooledGroup(group.id, group.source, group.preferences, tuple(length.tolist()), own)


@dataclass(frozen=True, slots=True)
class _Work:
    """What computes states, and where they go."""

    model: RewardModel
    data: PreferenceData
    store: PooledStore
    device: torch.device
    mixed: bool  # whether in bfloat16 where float32 is not needed

    def compute(self, split: Split, chunks: Sequence[_Chunk]) -> dict[str, PooledStates]:
        """The states of chunks by their key, each kept as soon as it is there."""
        found: dict[str, PooledStates] = {}
        if not chunks:
            return found
        batches = iter(self.data.loader(split, batches=[each for chunk in chunks for each in chunk.passes]))
        told, training = time.monotonic(), self.model.training
        self.model.to(self.device).eval()
        for chunk in chunks:
            pieces = [self._states(next(batches)) for _ in chunk.passes]
            lengths, states = (np.concatenate(each) for each in zip(*pieces, strict=True))
            found[chunk.key] = self.store.keep(chunk.key, PooledStates(lengths, states))
            if time.monotonic() - told > TOLD_S:
                told = time.monotonic()
                logger.info("pooled states of %s: %d of %d files", split, len(found), len(chunks))
        self.model.train(training)
        return found

    @torch.inference_mode()
    def _states(self, batch: TreeBatch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Of one forward pass: tokens of its responses `(R,)`, and their states `(R, D)`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            states = self.model.pooled(batch.to(self.device))
        return batch.lengths.numpy(), states.float().cpu().numpy()
