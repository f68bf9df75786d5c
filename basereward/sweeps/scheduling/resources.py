"""What a cell runs on: the devices that its recipe states, or as many GPUs as its memory needs by count."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from basereward.errors import ClusterError, ModelError, format_bytes, format_count
from basereward.recipe import Cell
from basereward.recipe.checks.parallel import num_devices
from basereward.recipe.schema import Recipe
from basereward.sweeps.launcher import Launcher, Resources

if TYPE_CHECKING:
    from basereward.model.cost.memory import Memory

GIB = 2**30


def needed_resources(recipe: Recipe) -> Resources:
    """What a cell of a recipe runs on.

    >>> needed_resources(Recipe())
    Resources(devices=1, nodes=1, accelerator='auto')
    """
    trainer = recipe.trainer
    kind = {"cpu": "cpu", "mps": "cpu", "cuda": "gpu", "gpu": "gpu"}.get(trainer.accelerator, "auto")
    return Resources(num_devices(recipe), trainer.nodes, kind)


def with_devices(cells: Sequence[Cell], held: Mapping[str, Memory], launcher: Launcher) -> list[Cell]:
    """Set the number of devices of cells whose recipe has none: the smallest on which the cell fits by count.

    Nothing else in a recipe changes, and its hash stays the same.

    Args:
        cells: of a sweep.
        held: name of a cell -> the memory of its run on one device. A cell that is not in it gets one device.
        launcher: that trains them; without `gpu_memory`, each of these cells gets one device.

    Raises:
        ClusterError: a cell fits on no number of GPUs of one machine.
    """
    memory = launcher.gpu_memory
    if memory is None:
        return list(cells)
    chosen: list[Cell] = []
    for cell in cells:
        trainer = cell.recipe.trainer
        is_open = trainer.devices is None and trainer.accelerator in ("auto", "gpu", "cuda")
        if is_open and cell.name in held:
            # Imported here, because it imports torch, which a sweep of finished cells does not need.
            from basereward.training.cost.run_memory import needed_devices

            try:
                number = needed_devices(cell.recipe, held[cell.name], available=round(memory * GIB))
            except ModelError as error:
                raise ClusterError(f"cell {cell.name} fits on no machine: {error}") from error
            recipe = dataclasses.replace(cell.recipe, trainer=dataclasses.replace(trainer, devices=number))
            chosen.append(dataclasses.replace(cell, recipe=recipe))
        else:
            chosen.append(cell)
    return chosen


def describe_plan(cells: Sequence[Cell], held: Mapping[str, Memory], launcher: Launcher) -> Iterator[str]:
    """Describe the devices of the cells of a sweep, in one line for all cells with the same devices.

    Args:
        cells: that are to be trained, from `with_devices`.
        held: as of `with_devices`.
        launcher: that trains them.

    >>> from basereward.recipe import load_cells
    >>> from basereward.sweeps.launcher import load_launcher
    >>> list(describe_plan(load_cells("basereward", overrides=["trainer.devices=2"]), {}, load_launcher("local")))
    ['plan: 1 cell, each on 2 processes on a CPU']
    """
    lines: dict[str, int] = {}
    for cell in cells:
        line = _describe(cell, held.get(cell.name), launcher)
        lines[line] = lines.get(line, 0) + 1
    for line, number in lines.items():
        yield f"plan: {format_count(number, 'cell')}, each on {line}"


def _describe(cell: Cell, held: Memory | None, launcher: Launcher) -> str:
    resources = needed_resources(cell.recipe)
    kinds = {"cpu": ("process on a CPU", "processes on a CPU"), "gpu": ("GPU", "GPUs"), "auto": ("device", "devices")}
    kind = resources.accelerator
    # What has GPUs of a known memory has GPUs.
    noun, plural = kinds["gpu" if kind == "auto" and launcher.gpu_memory is not None else kind]
    text = format_count(resources.devices, noun, plural)
    if resources.nodes > 1:
        text += f" of each of {resources.nodes} machines"
    if kind == "cpu" or launcher.gpu_memory is None:
        return text
    counted = "memory not counted" if held is None else f"{format_bytes(held.peak)} by count"
    return f"{text}, {counted}, for GPUs of {launcher.gpu_memory:g} GiB"
