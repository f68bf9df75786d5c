"""The memory that a run of a recipe needs, and the memory that its device has."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from basereward.model.cost.memory import Memory, PassTokens, memory
from basereward.model.reward_model import RewardModel
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
