"""`basereward check`: everything that `train` and `sweep` would refuse, before any model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from basereward.cli.check_text import format_cost, format_counted, format_quick
from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, USER_MISTAKE, Command, CommandResult, UsageError
from basereward.cli.options import add_recipe_arguments, check_choice
from basereward.cli.tables import format_table
from basereward.errors import format_count
from basereward.io.progress import phase
from basereward.io.secrets import redact
from basereward.training.cost.gpu_specs import GPUS, UTILISATION

if TYPE_CHECKING:
    from basereward.recipe import Cell
    from basereward.recipe.fault import Fault

VALUE_WIDTH = 80
"""Most characters of a varied value in the table of cells; the name of the cell still tells cells apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe and the options of the cost estimate.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["head_depth", "--cost"]).cost
    True
    """
    add_recipe_arguments(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="check only what needs no library: the recipe, files, first rows, folders and packages, in about a second",
    )
    parser.add_argument(
        "--recipe-only",
        action="store_true",
        help="check the recipe alone, and neither files nor this machine: for a run on another machine",
    )
    parser.add_argument(
        "--cost",
        action="store_true",
        help="also count tokens, FLOPs and memory of every cell, and estimate its hours on a GPU",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"estimate for one GPU only: {', '.join(GPUS)} (default: all); needs --cost"
    )
    parser.add_argument(
        "--utilisation",
        metavar="SHARE",
        type=float,
        help=f"share of the GPU's peak FLOP/s that training reaches, above 0, at most 1 (default: {UTILISATION}); "
        "needs --cost",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown GPU, a share out of range, or an option of the estimate without `--cost`.

    >>> check_arguments(argparse.Namespace(gpu="h100", utilisation=None, cost=False, quick=False, recipe_only=False))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --gpu and --utilisation have no effect without --cost; add --cost
    """
    check_choice("GPU", arguments.gpu, GPUS)
    if arguments.utilisation is not None and not 0 < arguments.utilisation <= 1:
        raise UsageError(f"--utilisation {arguments.utilisation}: a share above 0 and at most 1 is needed")
    if sum((arguments.quick, arguments.recipe_only, arguments.cost)) > 1:
        raise UsageError("--quick and --recipe-only leave out what --cost counts; give one of the three")
    if not arguments.cost and (arguments.gpu is not None or arguments.utilisation is not None):
        raise UsageError("--gpu and --utilisation have no effect without --cost; add --cost")


def start(arguments: argparse.Namespace) -> Iterator[str]:
    """Finds the cells, the faults of the recipe, and those of files, rows, folders and packages, without torch.

    Yields:
        The cells, and what was looked at.
    """
    from basereward.recipe import find_experiment
    from basereward.training.preflight import Findings, quick_findings

    experiment, faults = find_experiment(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    if experiment.stages:
        # Rows of stages are read later, with the models, because a stage needs the outputs of earlier stages.
        arguments.loaded, arguments.found = experiment, Findings(faults)
        stages = [(stage.name, stage.node.get("_target_", ""), ", ".join(stage.needs)) for stage in experiment.stages]
        yield from (*format_table(("stage", "does", "needs"), stages), "")
        return
    # The machine and the data are looked at only for a recipe that is right: this reads rows.
    with phase("checking the machine and the first rows"):
        found = Findings(faults) if faults or arguments.recipe_only else quick_findings(experiment.cells)
    arguments.loaded, arguments.found = experiment, found
    rows = [(cell.name, _format_overrides(cell.overrides)) for cell in experiment.cells]
    if rows:
        yield from (*format_table(("cell", "what is varied"), rows), "")
    if not found.faults:
        yield from format_quick(found.facts)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Checks the models, unless the quick part has found faults; with `--cost` also counts the cost of each cell."""
    from basereward.training.preflight import cell_findings

    experiment, found = arguments.loaded, arguments.found
    if experiment.stages:
        return _check_stages(arguments)
    if not (arguments.quick or arguments.recipe_only or found.faults):
        with phase("checking the models"):
            found = cell_findings(experiment.cells, found)
    cells: list[dict[str, Any]] = []
    for cell in experiment.cells:
        cells.append({"name": cell.name, "overrides": cell.overrides, "facts": found.facts.get(cell.name, {})})
    if arguments.cost and not found.faults:
        _add_costs(cells, experiment.cells, arguments)
    # Dataclasses are no JSON, so the result holds plain values.
    ensembles = [{"name": name, **asdict(recipe)} for name, recipe in experiment.ensembles.items()]
    result = {
        "cells": cells,
        "ensembles": ensembles,
        "faults": _plain(found.faults),
        "warnings": _plain(found.warnings),
    }
    return result, USER_MISTAKE if found.faults else SUCCESS


def _check_stages(arguments: argparse.Namespace) -> CommandResult:
    """Checks every stage of a pipeline."""
    experiment, found = arguments.loaded, arguments.found
    if arguments.cost:
        raise UsageError(f"--cost counts one training, and '{experiment.name}' has stages; leave it out")
    if not (arguments.recipe_only or found.faults):
        with phase("checking the stages"):
            from basereward.pipelines.check import stage_findings

            found = stage_findings(experiment.stages, quick=arguments.quick)
    cells: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    for stage in experiment.stages:
        cells.append({"name": stage.name, "overrides": {}, "facts": found.facts.get(stage.name, {})})
        stages.append({"name": stage.name, "does": stage.node.get("_target_", ""), "needs": list(stage.needs)})
    checked = {"faults": _plain(found.faults), "warnings": _plain(found.warnings)}
    return {"cells": cells, "stages": stages, "ensembles": [], **checked}, USER_MISTAKE if found.faults else SUCCESS


def _add_costs(results: Sequence[dict[str, Any]], cells: Sequence[Cell], arguments: argparse.Namespace) -> None:
    with phase(LOADING_LIBRARIES):
        from basereward.rl.running.cost import costs

    # Every GPU by default: the count of operations is the slow part, and is done once for all.
    gpus = [arguments.gpu] if arguments.gpu else list(GPUS)
    for result, cost in zip(results, costs(cells, gpus=gpus, utilisation=arguments.utilisation), strict=True):
        result["cost"] = cost


def _plain(faults: Sequence[Fault]) -> list[dict[str, str]]:
    # A message shows the value that was given, which may be a key or a password.
    return [{"cell": fault.cell, "key": fault.key, "message": redact(fault.message)} for fault in faults]


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """What was counted of the models, the faults, the ensembles, and the cost of each cell where it was counted.

    The cells are printed before, by `start`.

    >>> list(format_text({"cells": [{"name": "lr=1", "facts": {}}], "ensembles": [], "faults": [], "warnings": []}))
    ['1 cell, no faults']
    """
    from basereward.recipe.fault import Fault, format_faults

    yield from format_counted({cell["name"]: cell["facts"] for cell in result["cells"]})
    for line in format_faults([Fault(**fault) for fault in result["warnings"]]):
        yield f"warning: {line}"
    lines = format_faults([Fault(**fault) for fault in result["faults"]])
    faults = format_count(len(lines), "fault") if lines else "no faults"
    what = "stage" if result.get("stages") else "cell"
    yield f"{format_count(len(result['cells']), what)}, {faults}"
    yield from (f"  {line}" for line in lines)
    yield from map(_format_ensemble, result["ensembles"])
    if any("cost" in cell for cell in result["cells"]):
        yield ""
        yield from format_cost(result["cells"])


def _format_ensemble(ensemble: Mapping[str, Any]) -> str:
    text = f"; for text {', '.join(ensemble['text'])}" if ensemble["text"] else ""
    return f"  ensemble {ensemble['name']}: {ensemble['how']} of {', '.join(ensemble['members'])}{text}"


def _format_overrides(overrides: Mapping[str, Any]) -> str:
    from basereward.recipe.grid import label

    parts = []
    for key, value in overrides.items():
        text = label(value)
        shown = text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 3]}..."
        parts.append(f"{key}={shown}")
    return "  ".join(parts)


COMMAND = Command(
    activity="check: reading the recipe of {experiment} on profile {profile}",
    summary="tell everything that train or sweep would refuse; no model is loaded",
    examples=(
        "basereward check head_depth",
        "basereward check basereward data.sources.mine.include=sources/jsonl data.sources.mine.path=pairs.jsonl",
        "basereward check head_depth --profile qwen2_5_vl_7b --recipe-only",
        "basereward check head_depth --profile qwen2_5_vl_7b --cost --gpu h200",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    start=start,
    run=run,
    format_text=format_text,
)
