"""Says what a run is about to do: what is trained, on which rows, for how long, and in how much memory by count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from basereward.data.batching.plan import Plan
from basereward.data.module import PreferenceData
from basereward.data.schema.group import SPLITS
from basereward.errors import BaseRewardError, format_bytes, format_count
from basereward.model.cost.memory import Memory
from basereward.model.families.parts import PARTS, part_of
from basereward.model.reward_model import RewardModel
from basereward.recipe.checks.parallel import num_ranks
from basereward.recipe.schema import Recipe
from basereward.training.cost.run_memory import count_memory, device_memory, device_share
from basereward.training.parallel.sharded_strategy import ShardedStrategy

if TYPE_CHECKING:
    from basereward.training.build import PreparedRun

GIB = 2**30


def describe_run(recipe: Recipe, prepared: PreparedRun) -> Iterator[str]:
    """Describe a run in lines for a person.

    Args:
        recipe: of the run.
        prepared: by `prepare_run`.
    """
    model, device = prepared.module.model, prepared.trainer.strategy.root_device
    yield from describe_parts(model)
    yield from describe_rows(prepared.data)
    trainer, ranks = recipe.trainer, num_ranks(recipe)
    strategy = "fsdp2" if isinstance(prepared.trainer.strategy, ShardedStrategy) else "ddp"
    several = f"{ranks} processes with {strategy}, the first on " if ranks > 1 else ""
    yield f"device: {several}{device_name(device)}, precision {trainer.precision}"
    try:
        counted = count_memory(recipe, model, prepared.data)
    # A model whose layers are not known to the count can still be trained.
    except BaseRewardError as error:
        yield f"memory: not counted: {error}"
        return
    if counted is not None:
        counted = device_share(recipe, counted, device)
        yield describe_memory(counted, available=device_memory(device), probe=recipe.probe)


def describe_parts(model: RewardModel) -> Iterator[str]:
    """Describe which parts of a model are trained, with their parameters.

    >>> list(describe_parts(torch.nn.ModuleDict({"head": torch.nn.Linear(3, 1)})))
    ['trained: head (4 parameters)']
    """
    trained: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        counts = trained if parameter.requires_grad else frozen
        part = _part(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    yield f"trained: {_format_parts(trained)}"
    if frozen:
        yield f"frozen: {_format_parts(frozen)}"


def _part(name: str) -> str:
    """The part of a reward model that a parameter belongs to."""
    owner = name.partition(".")[0]
    if owner != "backbone":
        # `language` is the head that writes text, and not the language model.
        return "LM head" if owner == "language" else owner
    part = part_of(name)
    assert part in PARTS
    return f"LoRA of {part}" if "lora_" in name else part


def _format_parts(counts: dict[str, int]) -> str:
    return ", ".join(f"{part} ({format_large(count)} parameters)" for part, count in counts.items()) or "nothing"


def format_large(count: int) -> str:
    """A large number for people.

    >>> format_large(7_615_616_512), format_large(1_234_567), format_large(640)
    ('7.62 billion', '1.23 million', '640')
    """
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.2f} {word}"
    return f"{count:,}"


def describe_rows(data: PreferenceData) -> Iterator[str]:
    """Describe the rows of every source, and how often they are read."""
    plan = data.plan
    assert plan is not None
    for name in data.sources:
        # The length of a stream is not known.
        known = [split for split in SPLITS if name in data.lengths[split]]
        counts = [f"{len(data.lengths[split][name]):,} {split}" for split in known]
        yield f"source {name}: {', '.join(counts)}"
    steps = f"{plan.steps:,} steps of {plan.groups} groups in {format_count(plan.stages, 'stage')}"
    if not isinstance(plan, Plan):
        yield f"plan: {steps}, streamed"
        return
    epochs = plan.steps * plan.groups / plan.mixture.epoch_size
    yield f"plan: {steps}; {epochs:.2f} epochs of {plan.mixture.epoch_size:,} groups"


def device_name(device: torch.device) -> str:
    """The name of a device, with that of the card.

    >>> device_name(torch.device("cpu")).startswith("CPU, ")
    True
    """
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"CPU, {format_count(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else str(device)


def describe_memory(counted: Memory, *, available: int, probe: bool = False) -> str:
    """Compare the counted memory with that of the device.

    Args:
        counted: by the cost model.
        available: of the device, in bytes.
        probe: the counted memory is that of the head alone, after the states were computed.

    >>> describe_memory(Memory(weights=4 * GIB, gradients=0, moments=0, copies=0, activations=GIB), available=4 * GIB)
    'memory by count: 5 GiB of 4 GiB (weights 4 GiB, gradients 0 bytes, moments 0 bytes, activations 1 GiB): ...'
    """
    parts = {"weights": counted.weights, "gradients": counted.gradients, "moments": counted.moments}
    if counted.masters:
        parts["master copies"] = counted.masters
    parts["activations"] = counted.activations + counted.copies
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
    text = f"memory by count: {format_bytes(counted.peak)} of {format_bytes(available)} ({listed})"
    if probe:
        text += ", while the head is trained"
    return f"{text}: it may not fit" if counted.peak > available else text
