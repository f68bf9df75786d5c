"""The memory that a run of a recipe needs, and the memory that its device has."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from basereward.model.cost.memory import Memory, PassTokens, memory
from basereward.model.reward_model import RewardModel
from basereward.recipe.checks.parallel import num_ranks
from basereward.recipe.schema import Recipe

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The memory that a container may use, for both versions of control groups."""


def run_memory(recipe: Recipe, model: RewardModel, largest: PassTokens, *, checkpointed: int | None = None) -> Memory:
    """Count the memory of a training.

    Args:
        recipe: of the run.
        model: with or without weights.
        largest: the size of the largest forward pass.
        checkpointed: number of layers of the language model that store only their inputs; None: as the model has it.
    """
    lora = recipe.model.lora
    return memory(
        model,
        largest,
        mixed=recipe.trainer.precision == "bf16-mixed",
        quantization=recipe.model.backbone.quantization,
        eight_bit=recipe.optimizer.kind.endswith("8bit"),
        dropout=lora is not None and lora.dropout > 0,
        bfloat16=recipe.optimizer.bfloat16,
        checkpointed=checkpointed,
    )


def device_share(recipe: Recipe, held: Memory, device: torch.device) -> Memory:
    """Return the part of the memory that one device holds; of a CPU, whose processes share it, that of all of them.

    Args:
        recipe: of the run.
        held: the memory of a run on one device.
        device: kind of the devices.

    >>> trainer = dataclasses.replace(Recipe().trainer, strategy="fsdp2", devices=4)
    >>> held = Memory(weights=8, gradients=8, moments=16, copies=0, activations=3)
    >>> device_share(Recipe(trainer=trainer), held, torch.device("cuda")).peak
    11
    """
    trainer, ranks = recipe.trainer, num_ranks(recipe)
    divided: dict[str, int] = {}
    if trainer.strategy == "fsdp2" and ranks > 1:
        names = ("weights", "gradients", "moments") if trainer.shard == "weights" else ("gradients", "moments")
        divided = {name: -(-getattr(held, name) // ranks) for name in names}
    share = dataclasses.replace(held, **divided)
    processes = trainer.devices if device.type == "cpu" else 1
    return Memory(**{name: number * processes for name, number in dataclasses.asdict(share).items()})


def device_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; of a CPU the memory of the machine, or the limit of the container.

    >>> device_memory(torch.device("cpu")) > 2**20
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in CGROUP_LIMITS:
        try:
            total = min(total, int(file.read_text()))
        # Not a container, one of the other version of control groups, or one without a limit ("max").
        except (OSError, ValueError):
            continue
    return total
