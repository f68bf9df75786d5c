"""The memory that a run of a recipe needs, and the memory that its device has."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import torch

from basereward.data.batching.plan import Plan
from basereward.data.module import PreferenceData
from basereward.errors import ModelError, format_bytes
from basereward.model.cost.memory import Memory, PassTokens, memory
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel
from basereward.recipe.checks.parallel import batch_problems, num_devices, num_ranks, strategy_problems
from basereward.recipe.schema import Recipe
from basereward.training.cost.largest_pass import SAMPLED, SEARCHED, largest_pass

USABLE = 0.9
"""Share of a device's memory that is used by count; the rest is left to kernels, the allocator and the estimate."""
MOST_DEVICES = 16
"""The most GPUs that one machine has."""
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


def count_memory(recipe: Recipe, model: RewardModel, data: PreferenceData) -> Memory | None:
    """Count the memory of a run on one device; None for a stream, whose largest forward pass is not known.

    Args:
        recipe: of the run.
        model: with or without weights.
        data: after `setup`.

    Raises:
        ModelError: the model has layers that the count does not know.
    """
    if not isinstance(data.plan, Plan):
        return None
    largest = largest_pass(data, Pooling(recipe.model.pooling), sampled=SAMPLED, searched=SEARCHED)
    return run_memory(recipe, model, largest)


def device_share(recipe: Recipe, held: Memory, device: torch.device, *, available: int | None = None) -> Memory:
    """Return the part of the memory that one device holds; of a CPU, whose processes share it, that of all of them.

    Args:
        recipe: of the run.
        held: the memory of a run on one device.
        device: kind of the devices.
        available: memory of a device in bytes; None: that of this machine's.

    >>> trainer = dataclasses.replace(Recipe().trainer, strategy="fsdp2", devices=4)
    >>> held = Memory(weights=8, gradients=8, moments=16, copies=0, activations=3)
    >>> device_share(Recipe(trainer=trainer), held, torch.device("cuda")).peak
    11
    """
    trainer, ranks = recipe.trainer, num_ranks(recipe)
    divided: dict[str, int] = {}
    if ranks > 1 and chosen_strategy(recipe, held, device, available=available) == "fsdp2":
        names = ("weights", "gradients", "moments") if trainer.shard == "weights" else ("gradients", "moments")
        divided = {name: -(-getattr(held, name) // ranks) for name in names}
    share = dataclasses.replace(held, **divided)
    processes = num_devices(recipe) if device.type == "cpu" else 1
    return Memory(**{name: number * processes for name, number in dataclasses.asdict(share).items()})


def chosen_strategy(
    recipe: Recipe, held: Memory, device: torch.device, *, available: int | None = None
) -> Literal["ddp", "fsdp2"]:
    """Return the strategy of a run on several devices: what `auto` stands for, or the one that the recipe states.

    It is ddp where the run with a whole model fits on each device by count, and on CPUs; else fsdp2, unless the recipe
    has what fsdp2 cannot divide.

    Args:
        recipe: of the run.
        held: the memory of a run on one device.
        device: kind of the devices.
        available: memory of a device in bytes; None: that of this machine's.

    >>> recipe = Recipe(trainer=dataclasses.replace(Recipe().trainer, devices=2))
    >>> held = Memory(weights=10, gradients=10, moments=20, copies=0, activations=0)
    >>> cuda = torch.device("cuda")
    >>> chosen_strategy(recipe, held, cuda, available=50), chosen_strategy(recipe, held, cuda, available=40)
    ('ddp', 'fsdp2')
    """
    given = recipe.trainer.strategy
    if given != "auto":
        return given
    if device.type != "cuda":
        return "ddp"
    usable = USABLE * (device_memory(device) if available is None else available)
    divided = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, strategy="fsdp2"))
    return "fsdp2" if held.peak > usable and not any(strategy_problems(divided)) else "ddp"


def needed_devices(recipe: Recipe, held: Memory, *, available: int) -> int:
    """Return the smallest number of GPUs of one machine on which a run fits by count.

    Args:
        recipe: of the run; its own number of devices does not count.
        held: the memory of a run on one device.
        available: memory of a GPU in bytes.

    Raises:
        ModelError: it fits on none: nothing is divided, or too little.

    >>> held = Memory(weights=30, gradients=30, moments=60, copies=0, activations=10)
    >>> needed_devices(Recipe(), held, available=200), needed_devices(Recipe(), held, available=60)
    (1, 4)
    """
    device = torch.device("cuda")
    smallest = held.peak
    for number in range(1, MOST_DEVICES + 1):
        tried = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, devices=number))
        if any(batch_problems(tried)):
            continue
        peak = device_share(tried, held, device, available=available).peak
        smallest = min(smallest, peak)
        if peak <= USABLE * available:
            return number
    raise ModelError(
        f"it needs about {format_bytes(held.peak)} by count, and on up to {MOST_DEVICES} GPUs at least "
        f"{format_bytes(smallest)} on each, but only {format_bytes(int(USABLE * available))} of a GPU of "
        f"{format_bytes(available)} are used. Train adapters (model.lora.rank=64), lower batch.groups_per_forward, set "
        "model.backbone.gradient_checkpointing=true, or state trainer.devices to start it all the same"
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
