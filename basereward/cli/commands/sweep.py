"""`basereward sweep`: train every cell of an experiment, and make its ensembles."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SOME_FAILED, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import add_recipe_arguments
from basereward.cli.tables import format_number, format_table
from basereward.io.progress import phase
from basereward.io.progress.displays import format_seconds

SHOWN_METRICS = ("/pair_accuracy", "test/tokens_per_pair")
"""Ends of the names of the metrics that have a column: accuracy on every source, and what a pair's scores cost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe and the launcher."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--on",
        metavar="LAUNCHER",
        help="where the cells run: `local` (processes of this machine), `ray` or `slurm` (a cluster that shares the "
        "folder of runs), or the dotted path of a launcher class of your own, with --trust. Its settings are "
        "launcher.KEY=VALUE (default: `launcher` of the recipe, or local)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a running Ray cluster; `auto`: the one of this machine (default with --on ray: one is started here)",
    )
    parser.add_argument(
        "--status",
        action="store_true",
        help="start nothing; show where each cell of the experiment's last sweep runs, how far it is, and what is left",
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="train only the cells whose names match, as in 'head=2_*'; repeat the option for several (default: all)",
    )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Trains the cells that are not finished, and then makes the ensembles."""
    if arguments.status:
        from basereward.sweeps.scheduling.status import sweep_status

        return {"status": sweep_status(arguments.experiment)}, SUCCESS
    from basereward.recipe import load_experiment
    from basereward.sweeps.launcher import make_launcher
    from basereward.sweeps.selection import select_cells
    from basereward.training.preflight import check_quickly, unfinished

    overrides = [*launcher_overrides(arguments), *arguments.overrides]
    experiment = load_experiment(arguments.experiment, profile=arguments.profile, overrides=overrides)
    if experiment.stages:
        raise UsageError(
            f"'{experiment.name}' has stages and no cells; run it by `basereward train {arguments.experiment}`"
        )
    launcher = make_launcher(experiment.cells[0].recipe.launcher)
    experiment = select_cells(experiment, arguments.only)
    found = check_quickly(unfinished(experiment.cells), here=launcher.runs_here)
    # Only after the experiment and its files are found right: this import takes seconds.
    with phase(LOADING_LIBRARIES):
        from basereward.sweeps.sweep import sweep

    result = sweep(experiment, launcher=launcher, quick=found)
    return result, exit_status(result)


def launcher_overrides(arguments: argparse.Namespace) -> list[str]:
    """The options about the launcher as overrides of the recipe, in which they are kept for `basereward resume`.

    >>> launcher_overrides(argparse.Namespace(on=None, address="auto"))
    ['launcher._target_=ray', 'launcher.address=auto']
    """
    # Only Ray has an address.
    launcher = arguments.on or ("ray" if arguments.address else None)
    texts = {"_target_": launcher, "address": arguments.address}
    return [f"launcher.{key}={json.dumps(text) if ':' in text else text}" for key, text in texts.items() if text]


def exit_status(result: Mapping[str, Any]) -> int:
    """The exit status of a sweep: `SOME_FAILED` when a cell or an ensemble failed.

    >>> exit_status({"cells": [{"status": "finished"}, {"status": "failed"}], "ensembles": []})
    1
    """
    parts = [*result["cells"], *result["ensembles"]]
    return SOME_FAILED if any(part["status"] == "failed" for part in parts) else SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """A table of the cells and ensembles, the comparisons, the failures, and how many are in which state.

    >>> cell = {"name": "lr=1", "status": "finished", "metrics": {"test/pair_accuracy": 0.9}, "run_id": "r1"}
    >>> list(format_text({"cells": [cell], "differences": []}))[-1]
    '1 finished'
    """
    if "status" in result:
        yield from _format_status(result["status"])
        return
    cells = [*result["cells"], *result.get("ensembles", [])]
    metrics = _shown_metrics(cells)
    yield from (*_format_cells(cells, metrics), "")
    # With two columns of accuracy one is the only source and the other its mean, which are equal.
    if result["differences"] and sum(name.endswith("/pair_accuracy") for name in metrics) > 2:
        yield "test/pair_accuracy is the mean over the sources."
    yield from result["differences"]
    for cell in cells:
        # Below the table, because the message of an error may have several lines.
        if cell["status"] == "failed":
            yield f"{cell['name']} failed: {cell.get('error')}"
    statuses = Counter(cell["status"] for cell in cells)
    yield ", ".join(f"{count} {status}" for status, count in statuses.items())


def _format_status(status: Mapping[str, Any]) -> Iterator[str]:
    """A table of what each cell of a sweep is doing, and what is left.

    >>> cell = dict.fromkeys(("host", "job", "devices", "since", "step", "device_hours", "remaining_s", "score"))
    >>> cell |= {"name": "lr=1", "state": "waiting", "run_id": None}
    >>> counts = {"state": "running", "finished": 0, "failed": 0, "device_hours": 0.0, "remaining_s": None}
    >>> list(_format_status({"name": "rates", "sweep_id": "s1", "cells": [cell], **counts}))[-1]
    '0 of 1 cells finished, 0 failed, 0.00 device hours so far'
    """
    yield f"sweep {status['name']} ({status['sweep_id']}): {status['state']}"
    rows = [_status_row(cell) for cell in status["cells"]]
    yield from format_table(
        ("cell", "state", "host", "job", "devices", "since", "step", "left", "hours", "score"), rows
    )
    left = status["remaining_s"]
    end = "" if left is None else f", about {format_seconds(left)} to the end"
    cells = f"{status['finished']} of {len(status['cells'])} cells finished, {status['failed']} failed"
    yield f"{cells}, {status['device_hours']:.2f} device hours so far{end}"


def _status_row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    since = "-" if cell["since"] is None else cell["since"][:16].replace("T", " ")
    step = "-" if cell["step"] is None else f"{cell['step']} of {cell['steps'] or '?'}"
    left = "-" if cell["remaining_s"] is None else format_seconds(cell["remaining_s"])
    hours = "-" if cell["device_hours"] is None else f"{cell['device_hours']:.2f}"
    place = (cell[key] or "-" for key in ("host", "job", "devices"))
    return (cell["name"], cell["state"], *place, since, step, left, hours, format_number(cell["score"]))


def _format_cells(cells: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Iterator[str]:
    """The table of cells and ensembles; the column of the time for a pair only if one was measured."""
    is_timed = any(cell.get("pair_s") for cell in cells)
    head = ("cell", "status", *metrics, *(["seconds_per_pair"] if is_timed else []), "run")
    rows = [_cell_row(cell, metrics, is_timed=is_timed) for cell in cells]
    return format_table(head, rows)


def _shown_metrics(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics with a column, in the order in which the cells have them; not every cell has all."""
    names: dict[str, None] = {}
    for cell in cells:
        for name in cell["metrics"]:
            if name.endswith(SHOWN_METRICS):
                names[name] = None
    return list(names)


def _cell_row(cell: Mapping[str, Any], metrics: Sequence[str], *, is_timed: bool) -> tuple[str, ...]:
    values = [format_number(cell["metrics"].get(name)) for name in metrics]
    if is_timed:
        values.append(format_number(cell.get("pair_s")))
    return (cell["name"], cell["status"], *values, cell["run_id"] or "-")


COMMAND = Command(
    summary="train every cell of an experiment; finished ones are skipped",
    activity="sweep: reading the recipe of {experiment} on profile {profile}",
    examples=(
        "basereward sweep head_depth",
        "basereward sweep head_depth 'seeds=[0, 1, 2]' trainer.steps=50",
        "basereward sweep head_depth --only 'head=2_*'",
        "basereward sweep head_depth --on slurm launcher.partition=gpu launcher.hours=12",
        "basereward sweep head_depth --status",
    ),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
