"""Computes the pooled states that a probe trains on, once for all groups that it reads, and caches them on disk.

Shapes: R responses of some groups, D channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
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
from basereward.io.files import cache_folder
from basereward.io.progress import Phase, phase
from basereward.model.determinism_key import machine
from basereward.model.reward_model import RewardModel
from basereward.recipe.schema import Recipe
from basereward.training.parallel.collectives import num_ranks, rank_number, wait_for_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

CHUNK_GROUPS = 256
"""Groups whose states are stored in one file; an interrupted computation loses at most so many."""

ProbePass = list[Place]
"""The groups of one forward pass."""


class ProbeStates:
    """Computes or loads the pooled states of every group that a run reads, in place of tokens and images.

    Each rank computes a part of them, and reads the others from the cache. They are computed when the first batch is
    read. The model is in evaluation mode meanwhile, because a frozen backbone needs no dropout. The division of groups
    into forward passes depends on the recipe alone, so a run has the same bits whatever the cache holds.

    Args:
        recipe: of the run.
        model: its backbone is frozen; it is moved to the trainer's device.
    """

    def __init__(self, recipe: Recipe, *, model: RewardModel) -> None:
        self.recipe = recipe
        self.model = model

    def __call__(self, data: PreferenceData, known: Mapping[Split, PooledDataset]) -> dict[Split, PooledDataset]:
        """Return the groups of every split with their states.

        Args:
            data: after `setup`, attached to a trainer.
            known: states from an earlier probe of this process; those of a split are returned if the run reads the same
                groups of it.
        """
        assert data.trainer is not None
        # The trainer moves the module to its device, and the states have to be computed on the same one.
        device = data.trainer.strategy.root_device
        key = setting(self.recipe, model=self.model, data=data, device=device)
        store = PooledStore(cache_folder() / "pooled", setting=key)
        mixed = self.recipe.trainer.precision == "bf16-mixed"
        computation = _Computation(self.model, data, store, device, mixed=mixed)
        datasets: dict[Split, PooledDataset] = {}
        for split in SPLITS:
            places = read_places(data, split)
            # A set, because states are looked up by group; the order of the groups belongs to the plan.
            if split in known and known[split].groups.keys() == set(places):
                datasets[split] = known[split]
            else:
                datasets[split] = _pooled_dataset(split, places, computation=computation)
        return datasets


def setting(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> str:
    """Hash everything besides the groups on which the bits of pooled states depend.

    Args:
        recipe: of the run.
        model: with the backbone.
        data: with the encoder.
        device: that computes the states.
    """
    encoder, backbone = data.encoder, model.backbone
    # Section `model` without the head, which is trained on the states, and without keys that do not change the states
    # of given weights; the weights have a hash of their own.
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
    """List the groups whose states a run needs, source after source.

    When a run reads more than half of the training groups of a source, all of them are listed: then runs with other
    seeds or lengths find their states too.

    Args:
        data: after `setup`.
        split: of the groups.
    """
    all_places = data.parts[split].places
    if split != "train":
        return all_places
    read = _training_places(data)
    places = []
    for source in range(len(data.parts[split].names)):
        of_source = [place for place in all_places if place[0] == source]
        needed = sorted(place for place in read if place[0] == source)
        places += of_source if 2 * len(needed) > len(of_source) else needed
    return places


def _training_places(data: PreferenceData) -> set[Place]:
    """The groups of all micro-batches of the plan, on all ranks."""
    plan = data.plan
    assert isinstance(plan, Plan)
    places: set[Place] = set()
    for index in range(plan.steps * plan.forwards_per_step):
        for rank in range(plan.ranks):
            places.update(plan.forward(index, rank=rank))
    return places


class PooledLookup(NamedTuple):
    """A group without its text and images: what stays in memory besides its states.

    >>> PooledLookup((0, 7), id="row-7", source="digits", preferences=(Preference(0, 1),), responses=2).place
    (0, 7)
    """

    place: Place
    id: str
    source: str
    preferences: tuple[Preference, ...]
    responses: int


class _Chunk(NamedTuple):
    """Groups whose states are stored in one file."""

    key: str
    passes: list[ProbePass]
    # In the order of the passes.
    groups: list[PooledLookup]


def _pooled_dataset(split: Split, places: Sequence[Place], *, computation: _Computation) -> PooledDataset:
    """The dataset of a split: stored states, and computed ones for groups that the store lacks."""
    with phase(f"looking up pooled states of {split}"):
        chunks = list(_chunks(computation.data, split, places, store=computation.store))
    states_of: dict[str, PooledStates] = {}
    for chunk in chunks:
        states = computation.store.find(chunk.key)
        if states is not None:
            states_of[chunk.key] = states
    # By key, so that chunks with the same content are computed once.
    missing = {chunk.key: chunk for chunk in chunks if chunk.key not in states_of}
    num_missing = sum(len(chunk.groups) for chunk in missing.values())
    logger.info("pooled states of %s: %d of %d groups to compute", split, num_missing, len(places))
    # No rank computes before all of them have listed what is missing, so that their lists are the same.
    wait_for_all()
    own = list(missing.values())[rank_number() :: num_ranks()]
    with phase(f"caching pooled states of {split}", total=num_missing, unit="groups") as computing:
        states_of |= computation.compute(split, own, computing=computing)
        wait_for_all()
        left = []
        for chunk in missing.values():
            states = states_of.get(chunk.key) or computation.store.find(chunk.key)
            if states is not None:
                states_of[chunk.key] = states
            else:
                # The cache of the rank that has computed it is on another machine, or its disk is full.
                left.append(chunk)
        states_of |= computation.compute(split, left, computing=computing)
    groups: dict[Place, PooledGroup] = {}
    for chunk in chunks:
        groups.update(_split_by_group(chunk, states_of[chunk.key]))
    return PooledDataset(groups)


def _chunks(data: PreferenceData, split: Split, places: Sequence[Place], *, store: PooledStore) -> Iterator[_Chunk]:
    """Divide the groups into chunks of whole forward passes, with at least `CHUNK_GROUPS` groups in all but the last.

    The groups themselves, with their images, are dropped as soon as their content is hashed.
    """
    passes: list[ProbePass] = []
    contents: list[list[bytes]] = []
    lookups: list[PooledLookup] = []
    for probe_pass in data.batches(split, places):
        groups = [data.parts[split].group(place) for place in probe_pass]
        passes.append(probe_pass)
        contents.append([encoded_content(group) for group in groups])
        for place, group in zip(probe_pass, groups, strict=True):
            lookups.append(PooledLookup(place, group.id, group.source, group.preferences, len(group.responses)))
        if len(lookups) >= CHUNK_GROUPS:
            yield _Chunk(store.key(contents), passes, lookups)
            passes, contents, lookups = [], [], []
    if lookups:
        yield _Chunk(store.key(contents), passes, lookups)


def _split_by_group(chunk: _Chunk, pooled: PooledStates) -> Iterator[tuple[Place, PooledGroup]]:
    """The states of a chunk, group by group."""
    counts = [group.responses for group in chunk.groups]
    states = torch.split(torch.from_numpy(pooled.states), counts)
    lengths = torch.split(torch.from_numpy(pooled.lengths), counts)
    for group, group_lengths, group_states in zip(chunk.groups, lengths, states, strict=True):
        yield (
            group.place,
            PooledGroup(group.id, group.source, group.preferences, tuple(group_lengths.tolist()), group_states),
        )


@dataclass(frozen=True, slots=True)
class _Computation:
    """Computes states and stores them."""

    model: RewardModel
    data: PreferenceData
    store: PooledStore
    device: torch.device
    # Whether the precision is bf16-mixed, as in the trainer.
    mixed: bool

    def compute(self, split: Split, chunks: Sequence[_Chunk], *, computing: Phase) -> dict[str, PooledStates]:
        """Compute the states of chunks, by their key; each chunk is stored as soon as it is complete."""
        states_of: dict[str, PooledStates] = {}
        if not chunks:
            return states_of
        passes: list[ProbePass] = []
        for chunk in chunks:
            passes += chunk.passes
        batches = iter(self.data.loader(split, batches=passes))
        was_training = self.model.training
        # Evaluation mode: dropout would make the states depend on the moment of their computation.
        self.model.to(self.device).eval()
        for chunk in chunks:
            results = []
            for probe_pass in chunk.passes:
                results.append(self._states(next(batches)))
                computing.advance(len(probe_pass))
            lengths = np.concatenate([pass_lengths for pass_lengths, _ in results])
            states = np.concatenate([pass_states for _, pass_states in results])
            # Stored chunk by chunk, so that a killed run computes only the rest when it starts again.
            states_of[chunk.key] = self.store.keep(chunk.key, PooledStates(lengths, states))
        self.model.train(was_training)
        return states_of

    @torch.inference_mode()
    def _states(self, batch: TreeBatch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Lengths of the responses of a forward pass in tokens, `(R,)`, and their states, `(R, D)`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            states = self.model.pooled(batch.to(self.device))
        # float32, because numpy has no bfloat16; the conversion is exact.
        return batch.lengths.numpy(), states.float().cpu().numpy()
