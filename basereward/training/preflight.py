"""Finds errors that a training would raise, within seconds and without loading a model.

`quick_findings` checks the machine and the first rows of every source without torch. `cell_findings` then encodes rows,
builds the models without weights and counts their memory. `check`, `train` and `sweep` call both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from basereward.errors import BaseRewardError, DataError, ModelError, RecipeError, RunError, TooManyRowsLost
from basereward.recipe import Cell, Fault, Recipe, recipe_sha256
from basereward.recipe.checks.parallel import micro_batch_groups
from basereward.recipe.fault import fold, format_faults
from basereward.runs.run_folder import finished_with
from basereward.training.checks.machine import DISK, Problem, local_facts, machine_problems
from basereward.training.checks.rows import SourceSample, read_sources, validation_problems

if TYPE_CHECKING:
    from basereward.model.cost.memory import Memory

logger = logging.getLogger(__name__)


@dataclass
class Findings:
    """What the checks of the cells of an experiment have found.

    Attributes:
        faults: what a training would refuse. A fault of every cell is listed once, for the cell `*`.
        warnings: what may stop a training later; listed in the same way.
        facts: of each cell by its name, what was looked at: `runs`, `cache`, `tracking`, `sources`, and after
            `cell_findings` also `devices`, `tokens`, `model`, `memory`, `disk`.
        samples: of each cell, the first rows of its sources.
        held: of each cell whose memory was counted, by `cell_findings`, what a run of it holds on one device.

    >>> Findings().faults
    []
    """

    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: dict[str, list[SourceSample]] = field(default_factory=dict)
    held: dict[str, Memory] = field(default_factory=dict)


def quick_findings(cells: Sequence[Cell], *, limits_rejected: bool = True, here: bool = True) -> Findings:
    """Check the machine and read the first rows of every source, without torch.

    Data that several cells read are read once.

    Args:
        cells: of an experiment.
        limits_rejected: whether too many rejected rows are a fault. False leaves it to the check with the encoder,
            which also counts rows that are too long.
        here: whether the cells run on this machine, so that its devices must suffice.

    >>> from basereward.recipe.schema import DataRecipe
    >>> recipe = Recipe(data=DataRecipe(sources={"mine": {"_target_": "jsonl", "path": "no-such-file.jsonl"}}))
    >>> found = quick_findings([Cell("lr=1", "lr=1", {}, recipe), Cell("lr=2", "lr=2", {}, recipe)])
    >>> [(fault.cell, fault.key) for fault in found.faults]
    [('*', 'data.sources.mine')]
    """
    found = Findings()
    read: dict[str, tuple[list[SourceSample], list[Problem]]] = {}
    faults: list[Fault] = []
    for cell in cells:
        recipe = cell.recipe
        problems = list(machine_problems(recipe, here=here))
        # Everything that `read_sources` reads of a recipe. The cells of a sweep usually share all of it.
        key = repr((recipe.data, recipe.trainer.monitor, recipe.trainer.early_stopping))
        if key not in read:
            read[key] = read_sources(recipe, limits_rejected=limits_rejected)
        found.samples[cell.name], problems_of_rows = read[key]
        problems += problems_of_rows
        faults += [Fault(cell.name, key, message) for key, message in problems]
        if not problems:
            sources = {sample.name: sample.facts() for sample in found.samples[cell.name]}
            found.facts[cell.name] = {**local_facts(recipe), "sources": sources}
    found.faults = fold(faults, cells=[cell.name for cell in cells])
    return found


def cell_findings(cells: Sequence[Cell], quick: Findings | None = None, *, here: bool = True) -> Findings:
    """Check everything that can be checked without the weights of a model.

    Args:
        cells: of an experiment.
        quick: the result of `quick_findings` for these cells; None: it is called first, and rejected rows are counted
            once, with those of the encoder.
        here: as of `quick_findings`.

    Returns:
        The findings; those of `quick` alone when it has faults.
    """
    found = quick or quick_findings(cells, limits_rejected=False, here=here)
    if found.faults or not cells:
        return found
    # Imported here: this loads torch and transformers, which takes seconds.
    from basereward.training.checks.model import check_model

    checked: dict[str, Any] = {}
    faults: list[Fault] = []
    warnings: list[Fault] = []
    for cell in cells:
        key = _model_key(cell.recipe)
        if key not in checked:
            checked[key] = check_model(cell.recipe, found.samples[cell.name], here=here)
        findings = checked[key]
        faults += [Fault(cell.name, key, message) for key, message in findings.problems]
        warnings += [Fault(cell.name, key, message) for key, message in findings.warnings]
        found.facts[cell.name] |= findings.facts
        if findings.held is not None:
            found.held[cell.name] = findings.held
    names = [cell.name for cell in cells]
    found.faults, found.warnings = fold(faults, cells=names), fold(warnings, cells=names)
    return found


def _model_key(recipe: Recipe) -> str:
    """Everything of a recipe on which `check_model` depends: the cells of a sweep share much of it."""
    settings = recipe.trainer
    devices = (settings.devices, settings.nodes, settings.strategy, settings.shard)
    trainer = (settings.accelerator, settings.precision, *devices)
    optimizer = (recipe.optimizer.kind, sorted(recipe.optimizer.lr_by_part))
    batch = (micro_batch_groups(recipe), recipe.batch.tokens, recipe.batch.layout)
    sections = (recipe.model, recipe.loss, recipe.objective, recipe.data, recipe.probe, recipe.tracking)
    return repr((*sections, *trainer, *optimizer, *batch))


def cell_faults(cells: Sequence[Cell]) -> list[Fault]:
    """List the errors that the trainings of some cells would raise; see `cell_findings`.

    Args:
        cells: of an experiment.

    >>> from basereward.recipe.schema import TrackingRecipe
    >>> recipe = Recipe(tracking=TrackingRecipe(uri="htp://host"))
    >>> [fault.key for fault in cell_faults([Cell("mine", "mine", {}, recipe)])]
    ['tracking.uri', 'data.sources']
    """
    return cell_findings(cells).faults


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that no finished run has; a sweep trains only these, and the data of the others may be gone.

    Args:
        cells: of an experiment.

    >>> unfinished([])
    []
    """
    return [cell for cell in cells if finished_with(recipe_sha256(cell.recipe)) is None]


def check_quickly(cells: Sequence[Cell], *, here: bool = True) -> Findings:
    """Check cells as `quick_findings` does.

    Args:
        cells: of an experiment.
        here: as of `quick_findings`.

    Returns:
        What was found, for `check_cells`, which then reads no row again.

    Raises:
        BaseRewardError: there is a fault; the message has all.
    """
    found = quick_findings(cells, here=here)
    _raise(found.faults)
    return found


def check_cells(
    cells: Sequence[Cell], *, quick: Findings | None = None, resuming: bool = False, here: bool = True
) -> Findings:
    """Check cells as `cell_findings` does, before anything is trained, and log the warnings.

    Args:
        cells: of an experiment.
        quick: the result of `check_quickly` for these cells or more; None: their rows are read here.
        resuming: whether a run goes on, which has written most of its files already; the free disk is not checked.
        here: as of `quick_findings`.

    Raises:
        BaseRewardError: there is a fault; the message has all.
    """
    found = cell_findings(cells, quick, here=here)
    _raise([fault for fault in found.faults if not (resuming and fault.key == DISK)])
    for line in format_faults(found.warnings):
        logger.warning("%s", line)
    return found


def check_recipe(recipe: Recipe, *, quick: Findings | None = None, resuming: bool = False) -> None:
    """Check one recipe as `check_cells` does.

    Args:
        recipe: of the run.
        quick: the result of `check_quickly` for `only_cell(recipe)`, or None.
        resuming: as of `check_cells`.

    Raises:
        BaseRewardError: as `check_cells`.
    """
    check_cells([only_cell(recipe)], quick=quick, resuming=resuming)


def only_cell(recipe: Recipe) -> Cell:
    """A recipe as the only cell of an experiment.

    >>> only_cell(Recipe(name="mine")).name
    'mine'
    """
    return Cell(recipe.name, recipe.name, {}, recipe)


def check_ready(recipe: Recipe) -> None:
    """Check that this machine can run a recipe; nothing of its data is read.

    Raises:
        BaseRewardError: a device, a package, a folder or the backbone is missing, or the tracking store is wrong.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> check_ready(Recipe(trainer=TrainerRecipe(accelerator="cpu")))
    """
    from basereward.training.checks.model import device_problems

    problems = list(machine_problems(recipe)) or list(device_problems(recipe))
    _raise([Fault("*", key, message) for key, message in problems])


def check_validation(recipe: Recipe, held_out: Mapping[str, int | None]) -> None:
    """Check that settings which need validation rows have some; see `validation_problems`.

    Args:
        recipe: of the run.
        held_out: number of validation groups by source.

    Raises:
        RecipeError: there are none.

    >>> check_validation(Recipe(), {"mine": 40})
    """
    _raise([Fault("*", key, message) for key, message in validation_problems(recipe, held_out)])


def _raise(faults: Sequence[Fault]) -> None:
    """
    Raises:
        BaseRewardError: there are faults. A `RecipeError`, or the type of error for the section that all faults are in.
    """
    if not faults:
        return
    message = "\n  ".join(["the recipe cannot be trained here:", *format_faults(faults)])
    sections = {fault.key.partition(".")[0] if fault.key != "model.backbone.path" else "" for fault in faults}
    kinds: dict[str, type[BaseRewardError]] = {"data": DataError, "model": ModelError, "tracking": RunError}
    kind = kinds.get(sections.pop()) if len(sections) == 1 else None
    if {fault.key for fault in faults} == {"data.max_lost"}:
        kind = TooManyRowsLost
    raise kind(message) if kind else RecipeError(message, list(faults))
