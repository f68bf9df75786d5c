"""Checks every stage of a pipeline before the first one runs, with small stand-ins for outputs of earlier stages."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from basereward.errors import BaseRewardError, RecipeError
from basereward.pipelines.definition import made_stage, resolved_recipe
from basereward.pipelines.stages.contracts import UNTRAINED
from basereward.pipelines.stages.train import Train
from basereward.recipe import Cell, Fault, Recipe
from basereward.recipe.fault import format_faults
from basereward.recipe.schema import BackboneRecipe
from basereward.recipe.stages import StageRecipe
from basereward.training.preflight import Findings, cell_findings, quick_findings


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
    backbones: dict[str, BackboneRecipe] = {}
    with tempfile.TemporaryDirectory(prefix="basereward-check-") as folder:
        for stage in stages:
            if not set(stage.needs) <= outputs.keys():
                continue
            place = Path(folder) / stage.name
            place.mkdir()
            # A stage that fails has no stand-ins, so those that need it are left out.
            with _faults_of(stage, found):
                if stage.is_training:
                    outputs[stage.name] = dict.fromkeys(Train.outputs, f"{UNTRAINED}{stage.name}")
                else:
                    outputs[stage.name] = made_stage(stage, outputs).preview(place)
                    found.facts[stage.name] = {}
                if stage.recipe is not None:
                    recipe = _with_backbones(resolved_recipe(stage.recipe, outputs), backbones)
                    if stage.is_training:
                        backbones[outputs[stage.name]["run"]] = recipe.model.backbone
                    _check_recipe(stage, recipe, found, quick=quick)
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


def _check_recipe(stage: StageRecipe, recipe: Recipe, found: Findings, *, quick: bool) -> None:
    """Check the recipe of a stage that trains, and add what is found."""
    cell = Cell(stage.name, stage.name, {}, recipe)
    findings = quick_findings([cell]) if quick else cell_findings([cell])
    found.faults += [_of_stage(stage, fault) for fault in findings.faults]
    found.warnings += [_of_stage(stage, fault) for fault in findings.warnings]
    found.facts |= findings.facts


def _with_backbones(recipe: Recipe, backbones: Mapping[str, BackboneRecipe]) -> Recipe:
    """The recipe with the backbone of an earlier stage in the place of the model that this stage will train."""
    start, path = recipe.model.start, recipe.model.backbone.path
    backbone = backbones.get(start or "") or backbones.get(path or "")
    if backbone is None:
        return recipe
    # Which parts are trained, and how, is set by this stage.
    replaced = dataclasses.replace(
        recipe.model.backbone, path=backbone.path, make=backbone.make, revision=backbone.revision
    )
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, backbone=replaced, start=None))


def _of_stage(stage: StageRecipe, fault: Fault) -> Fault:
    key = f"stages.{stage.name}.recipe.{fault.key}" if fault.key else f"stages.{stage.name}"
    return Fault(stage.name, key, fault.message)
