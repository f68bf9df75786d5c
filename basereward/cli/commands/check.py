"""`basereward check`: every fault of every cell, before any model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, USER_MISTAKE, Command, CommandResult, UsageError
from basereward.cli.options import add_recipe_arguments, check_choice
from basereward.cli.tables import format_table
from basereward.errors import format_count
from basereward.io.progress import phase
from basereward.io.secrets import redact
from basereward.training.cost.gpu_specs import GPUS, UTILISATION

GIB = 2**30
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

    >>> check_arguments(argparse.Namespace(gpu="h100", utilisation=None, cost=False))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --gpu and --utilisation have no effect without --cost; add --cost
    """
    check_choice("GPU", arguments.gpu, GPUS)
    if arguments.utilisation is not None and not 0 < arguments.utilisation <= 1:
        raise UsageError(f"--utilisation {arguments.utilisation}: a share above 0 and at most 1 is needed")
    if not arguments.cost and (arguments.gpu is not None or arguments.utilisation is not None):
        raise UsageError("--gpu and --utilisation have no effect without --cost; add --cost")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Finds the cells and the faults; with `--cost` and no fault, also the cost of each cell."""
    from basereward.recipe import find_experiment

    experiment, faults = find_experiment(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    if not faults:
        # The machine and the data are looked at only for a recipe that is right: this reads rows.
        from basereward.training.preflight import cell_faults

        with phase("checking the machine and the first rows"):
            faults = cell_faults(experiment.cells)
    cells: list[dict[str, Any]] = [{"name": cell.name, "overrides": cell.overrides} for cell in experiment.cells]
    if arguments.cost and not faults:
        with phase(LOADING_LIBRARIES):
            from basereward.training.cost.recipe_cost import costs

        # Every GPU by default: the count of operations is the slow part, and is done once for all.
        gpus = [arguments.gpu] if arguments.gpu else list(GPUS)
        cell_costs = costs(experiment.cells, gpus=gpus, utilisation=arguments.utilisation)
        for cell, cost in zip(cells, cell_costs, strict=True):
            cell["cost"] = cost
    # Dataclasses are no JSON, so the result holds plain values.
    ensembles = [{"name": name, **asdict(recipe)} for name, recipe in experiment.ensembles.items()]
    # A message shows the value that was given, which may be a key or a password.
    fault_objects = [{"cell": fault.cell, "key": fault.key, "message": redact(fault.message)} for fault in faults]
    result = {"cells": cells, "ensembles": ensembles, "faults": fault_objects}
    return result, USER_MISTAKE if faults else SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The cells, the faults, the ensembles, and the cost of each cell where it was counted.

    >>> result = {"cells": [{"name": "lr=1", "overrides": {"lr": 1}}], "ensembles": [], "faults": []}
    >>> list(format_text(result))
    ['cell  what is varied', 'lr=1  lr=1', '', '1 cell, no faults']
    """
    from basereward.recipe.fault import Fault, format_faults

    rows = [(cell["name"], _format_overrides(cell["overrides"])) for cell in result["cells"]]
    if rows:
        yield from (*format_table(("cell", "what is varied"), rows), "")
    lines = format_faults([Fault(**fault) for fault in result["faults"]])
    yield f"{format_count(len(rows), 'cell')}, {format_count(len(lines), 'fault') if lines else 'no faults'}"
    for line in lines:
        yield f"  {line}"
    for ensemble in result["ensembles"]:
        text = f"; for text {', '.join(ensemble['text'])}" if ensemble["text"] else ""
        yield f"  ensemble {ensemble['name']}: {ensemble['how']} of {', '.join(ensemble['members'])}{text}"
    if any("cost" in cell for cell in result["cells"]):
        yield ""
        yield from format_cost(result["cells"])


def _format_overrides(overrides: Mapping[str, Any]) -> str:
    from basereward.recipe.grid import label

    parts = []
    for key, value in overrides.items():
        text = label(value)
        shown = text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 3]}..."
        parts.append(f"{key}={shown}")
    return "  ".join(parts)


def format_cost(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One table of work and hours, one of memory, and how both were counted."""
    gpus = list(cells[0]["cost"]["gpus"])
    work_head = ("cell", "steps", "tokens a step", "tokens", "work a step", "work", *(f"{name} hours" for name in gpus))
    yield from (*format_table(work_head, [_work_row(cell) for cell in cells]), "")
    memory_head = ("cell", "trained", "weights", "gradients", "moments", "copies", "activations", "peak GiB", "fits")
    yield from (*format_table(memory_head, [_memory_row(cell) for cell in cells]), "")
    # Precision and utilisation are the same for all cells, so the first cell describes all of them.
    first = cells[0]["cost"]
    step = first["flops"]["step"]
    recomputed = step["recomputed"] / step["total"]
    yield f"a step of {cells[0]['name']}: {_format_shares(step)}; recomputed in addition {recomputed:.1%}"
    yield (
        f"hours: all products of training, validations and test at {first['utilisation']:.0%} of the GPU's peak in the "
        "recipe's precision, one GPU; loading data is not in them"
    )
    yield "memory: counted, but for activations, which are estimated for the largest forward pass"


def _work_row(cell: dict[str, Any]) -> tuple[str, ...]:
    cost = cell["cost"]
    tokens, flops = cost["tokens"], cost["flops"]
    counts = (f"{cost['steps']:,}", f"{tokens['step']:,}", f"{tokens['run']:,}")
    work = (format_flops(flops["step"]["total"]), format_flops(flops["run"]["all"]))
    return (cell["name"], *counts, *work, *(_format_hours(gpu["hours"]) for gpu in cost["gpus"].values()))


def _memory_row(cell: dict[str, Any]) -> tuple[str, ...]:
    cost = cell["cost"]
    kinds = ("weights", "gradients", "moments", "copies", "activations", "peak")
    sizes = [f"{cost['bytes'][kind] / GIB:.3g}" for kind in kinds]
    fitting = [name for name, gpu in cost["gpus"].items() if gpu["fits"]]
    return (cell["name"], f"{cost['parameters']['trained']:,}", *sizes, ", ".join(fitting) or "none")


def format_flops(count: float) -> str:
    """A number of floating-point operations with a decimal prefix.

    >>> format_flops(9_880_000_000), format_flops(2.5e15), format_flops(12)
    ('9.88 GFLOP', '2.5 PFLOP', '12 FLOP')
    """
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {prefix}FLOP"
    return f"{count:.0f} FLOP"


def _format_hours(hours: float) -> str:
    return "< 0.01" if hours < 0.01 else f"{hours:,.2f}"


def _format_shares(step: Mapping[str, int]) -> str:
    """What share of a step's FLOPs each part of the model has; parts without work are left out."""
    kinds = ("vision", "language", "attention", "lora", "head")
    return ", ".join(f"{kind} {step[kind] / step['total']:.1%}" for kind in kinds if step[kind])


COMMAND = Command(
    summary="find every fault of every cell; no model is loaded",
    activity="check: reading the recipe of {experiment} on profile {profile}",
    examples=("basereward check head_depth", "basereward check head_depth --profile qwen2_5_vl_7b --cost --gpu h200"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
