"""`basereward sweep`: train every cell of an experiment, and make its ensembles."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SOME_FAILED, SUCCESS, Command, CommandResult
from basereward.cli.options import add_recipe_arguments
from basereward.cli.tables import format_number, format_table
from basereward.io.progress import phase

SHOWN_METRICS = ("/pair_accuracy", "test/tokens_per_pair")
"""Ends of the names of the metrics that have a column: accuracy on every source, and what a pair's scores cost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe and the launcher."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--on",
        metavar="LAUNCHER",
        default="local",
        help="where the cells run: `local` (processes of this machine), or the dotted path of a launcher class of your "
        "own, with --trust (default: local)",
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
    from basereward.recipe import load_experiment
    from basereward.sweeps.launcher import load_launcher
    from basereward.sweeps.selection import select_cells
    from basereward.training.preflight import check_quickly, unfinished

    launcher = load_launcher(arguments.on)
    experiment = load_experiment(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    experiment = select_cells(experiment, arguments.only)
    found = check_quickly(unfinished(experiment.cells))
    # Only after the experiment and its files are found right: this import takes seconds.
    with phase(LOADING_LIBRARIES):
        from basereward.sweeps.sweep import sweep

    result = sweep(experiment, launcher=launcher, quick=found)
    return result, exit_status(result)


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
    ),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
