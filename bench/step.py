"""Forward and backward passes of the bench's model on batches of chosen groups, without a trainer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from basereward import build, load_recipe
from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Preference
from basereward.training.module import RewardModule
from bench import checkpoint, workloads
from bench.ours import HERE, overrides


class Bench:
    """The bench's model, with adapters on the language model, and the encoded groups of a workload.

    Args:
        work: folder of rows and checkpoints; what is missing there is written.
        workload: `pairs`, `groups`, `text` or `short`.
    """

    def __init__(self, work: Path, workload: str) -> None:
        model = work / ("image_model" if workload in workloads.WITH_IMAGES else "text_model")
        if not (model / "tokenizer.json").exists():
            checkpoint.write(model, text_only=workload not in workloads.WITH_IMAGES)
        if not (work / f"{workload}.jsonl").exists():
            workloads.write(work)
        settings = overrides(model, work / f"{workload}.jsonl", layout="tree", groups=1, steps=1)
        recipe = load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=settings)
        self.module: RewardModule
        self.data: PreferenceData
        self.module, self.data, _ = build(recipe)

    def groups(self) -> Iterator[EncodedGroup]:
        """The training groups, in the order of the rows."""
        rows = self.data.parts["train"]
        return (rows[index] for index in sorted(rows.places))

    def batch(self, groups: Sequence[EncodedGroup], *, layout: Layout = "tree") -> TreeBatch:
        """Several encoded groups as one batch, in the layout that is measured."""
        return collate(groups, layout=layout, pad_id=self.data.encoder.pad_id)

    def step(self, batch: TreeBatch) -> float:
        """Seconds of a forward and a backward pass; the gradients are dropped."""
        began = time.perf_counter()
        loss, _ = self.module.objective(self.module.model, batch)
        torch.autograd.backward(loss)
        spent = time.perf_counter() - began
        # Otherwise the next step would add to the gradients, which takes longer than writing them.
        self.module.model.zero_grad(set_to_none=True)
        return spent


def of_size(group: EncodedGroup, responses: int) -> EncodedGroup:
    """The group with a number of responses: its own, repeated; the first one is the best."""
    branches = tuple(group.branches[i % len(group.branches)] for i in range(responses))
    preferences = tuple(Preference(0, loser) for loser in range(1, responses)) or (Preference(0, 0, tie=True),)
    return replace(group, branches=branches, preferences=preferences)
