"""Checks every stage of a pipeline before the first one runs, with small stand-ins for what the stages before make."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, RecipeError
from basereward.pipelines.definition import resolved_recipe
from basereward.pipelines.stages.contracts import Stage
from basereward.recipe import Cell, Fault, Recipe, make
from basereward.recipe.fault import format_faults
from basereward.recipe.stages import StageRecipe, resolved
from basereward.recipe.text import build_recipe
from basereward.training.preflight import Findings, cell_findings, quick_findings

UNTRAINED = "a model that is not trained yet"
"""Stands in for the model of a stage."""


def stage_findings(stages: Sequence[StageRecipe], *, quick: bool = False) -> Findings:
    """Check stages in their order.

    A stage that trains is checked as `check_cells` does, on stand-ins for the rows that earlier stages write. Others
    check themselves. A stage is not checked if it needs rows of one that has a fault.

    Args:
        stages: of a pipeline, in the order in which they run.
        quick: whether models are left out.

    Returns:
        Faults, warnings and facts by the name of the stage.
    """
    found = Findings()
    outputs: dict[str, Mapping[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="basereward-check-") as folder:
        for stage in stages:
            if not set(stage.needs) <= outputs.keys():
                continue
            place = Path(folder) / stage.name
            place.mkdir()
            # A stage that fails has no stand-ins, so those that need it are left out.
            with _faults_of(stage, found):
                outputs[stage.name] = _preview(stage, outputs, place, found, quick=quick)
    return found


def check_stages(stages: Sequence[StageRecipe]) -> None:
    """Check stages as `stage_findings` does.

    Raises:
        RecipeError: there is a fault; the message has all.
    """
    found = stage_findings(stages)
    if found.faults:
        lines = format_faults(found.faults)
        raise RecipeError("\n  ".join(["the pipeline cannot run here:", *lines]), found.faults)


@contextlib.contextmanager
def _faults_of(stage: StageRecipe, found: Findings) -> Iterator[None]:
    """Record the error of a stage as its fault."""
    try:
        yield
    except BaseRewardError as error:
        found.faults.append(Fault(stage.name, f"stages.{stage.name}", str(error)))


def _preview(
    stage: StageRecipe, outputs: Mapping[str, Mapping[str, str]], folder: Path, found: Findings, *, quick: bool
) -> Mapping[str, str]:
    if stage.recipe is None:
        made: Stage = make(resolved(stage.node, outputs), "stages")
        found.facts[stage.name] = {}
        return made.preview(folder)
    recipe = _without_untrained(resolved_recipe(stage.recipe, outputs))
    cell = Cell(stage.name, stage.name, {}, recipe)
    findings = quick_findings([cell]) if quick else cell_findings([cell])
    found.faults += [_of_stage(stage, fault) for fault in findings.faults]
    found.warnings += [_of_stage(stage, fault) for fault in findings.warnings]
    found.facts |= findings.facts
    return {"run": UNTRAINED, "model": UNTRAINED}


def _without_untrained(recipe: Recipe) -> Recipe:
    """The recipe with its backbone in the place of a model that an earlier stage will train."""
    values = dataclasses.asdict(recipe)
    if values["model"].get("start") == UNTRAINED:
        values["model"]["start"] = None
    return build_recipe(values)


def _of_stage(stage: StageRecipe, fault: Fault) -> Fault:
    key = f"stages.{stage.name}.recipe.{fault.key}" if fault.key else f"stages.{stage.name}"
    return Fault(stage.name, key, fault.message)


def stage_row(stage: StageRecipe, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A stage for people and programs: its name, what it does, and what it needs.

    >>> stage_row(StageRecipe("hard", {"_target_": "select"}, None, ("annotate",)), {})
    {'name': 'hard', 'does': 'select', 'needs': ['annotate'], 'facts': {}}
    """
    return {"name": stage.name, "does": stage.node.get("_target_", ""), "needs": list(stage.needs), "facts": facts}
