"""`basereward reproduce`: train and measure the cells of a published table, and compare them with it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SOME_FAILED, SUCCESS, Command, CommandResult
from basereward.cli.options import add_devices, add_overrides, check_choice, parse_devices
from basereward.cli.tables import format_table
from basereward.errors import format_count
from basereward.io.progress import phase
from basereward.pipelines.reproduction.plan import MEASURED
from basereward.training.cost.gpu_specs import GPUS

GPU = "h100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the table, and how it is made.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["table_2"]).table
    'table_2'
    """
    parser.add_argument(
        "table",
        metavar="TABLE",
        help="name of a file in experiments/published/ that names an experiment, or its end, such as table_2",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        default="tiny",
        help="profile that the experiment runs on, as for `sweep` (default: tiny)",
    )
    add_devices(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file to write the page to (default: reports/PROFILE/EXPERIMENT/SWEEP/TABLE.html)",
    )
    _add_choices(parser)
    add_overrides(parser, example="trainer.steps=50, or vl_rewardbench.data=rows.json of a benchmark")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds what is trained, measured and counted."""
    parser.add_argument(
        "--plan", action="store_true", help="train nothing; show the cells, their GPU hours, and the benchmarks"
    )
    parser.add_argument(
        "--on",
        metavar="ROWS",
        help=f"what models are measured on: {', '.join(MEASURED)} (default: stand_ins, which are made here, for "
        "backbones of random weights, and otherwise the published benchmarks)",
    )
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        action="append",
        default=[],
        help="measure on this benchmark of the table only; repeat the option for several (default: all)",
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        default=[],
        help="train only the cells whose names match, as in 'head=2_*' (default: those that are rows of the table)",
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="experiment of the table, if it names several (default: the first that is complete)",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", default=GPU, help=f"GPU whose hours are counted: {', '.join(GPUS)} (default: {GPU})"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown GPU, kind of rows or device.

    >>> check_arguments(argparse.Namespace(gpu="h100", on="publishe", devices=None))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown kind of --on 'publishe'; did you mean 'published'? ...
    """
    check_choice("GPU", arguments.gpu, GPUS)
    check_choice("kind of --on", arguments.on, MEASURED)
    parse_devices(arguments.devices)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Plans the table, and then makes it."""
    from basereward.pipelines.reproduction.plan import plan_table

    plan = plan_table(
        arguments.table,
        profile=arguments.profile,
        overrides=arguments.overrides,
        experiment=arguments.experiment,
        on=arguments.on,
        benchmarks=arguments.benchmark,
        only=arguments.only,
    )
    with phase(LOADING_LIBRARIES):
        from basereward.pipelines.reproduction.reproduce import describe, reproduce

    if arguments.plan:
        return describe(plan, gpu=arguments.gpu), SUCCESS
    result = reproduce(plan, gpu=arguments.gpu, devices=parse_devices(arguments.devices), out=arguments.out)
    return result, SOME_FAILED if result["faults"] else SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The cells with their hours, the benchmarks, what failed, and where the page is.

    >>> cell = {"name": "head=linear", "state": "finished", "run_id": "r1", "hours": 2.5}
    >>> head = {"title": "Table 1", "experiment": "heads", "profile": "tiny", "on": "stand_ins"}
    >>> hours = {"gpu": "h100", "hours": 2.5, "hours_fault": None}
    >>> list(format_text({**head, "cells": [cell], "benchmarks": [], **hours}))[-1]
    '1 cell, by count 2.5 hours of one H100'
    """
    on = "stand-ins of the benchmarks" if result["on"] == "stand_ins" else "the published benchmarks"
    yield f"{result['title']}: experiment {result['experiment']} on profile {result['profile']}, measured on {on}"
    rows = [(cell["name"], cell["state"], _shown(cell["hours"]), cell["run_id"] or "-") for cell in result["cells"]]
    yield from format_table(("cell", "state", f"{result['gpu'].upper()} hours", "run"), rows)
    for benchmark in result["benchmarks"]:
        yield _format_benchmark(benchmark)
    if result["hours_fault"] is None:
        total = f"by count {_shown(result['hours'])} hours of one {result['gpu'].upper()}"
    else:
        total = f"hours not counted: {result['hours_fault']}"
    yield f"{format_count(len(result['cells']), 'cell')}, {total}"
    for fault in result.get("faults", []):
        yield f"not made: {fault}"
    if "out" in result:
        yield f"page: {result['out']}"


def _format_benchmark(benchmark: Mapping[str, Any]) -> str:
    if benchmark["fault"] is not None:
        return f"benchmark {benchmark['name']} cannot be read: {benchmark['fault']}"
    return f"benchmark {benchmark['name']}: {format_count(benchmark['items'], 'item')}"


def _shown(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:.3g}"


COMMAND = Command(
    summary="train the cells of a published table; our values beside the printed ones",
    activity="reproduce: reading the table {table} on profile {profile}",
    examples=(
        "basereward reproduce table_2",
        "basereward reproduce table_2 --profile qwen2_5_vl_7b --plan data.sources.pairs.path=pairs.jsonl",
        "basereward reproduce table_2 --only 'head=2_*' vl_rewardbench.data=vl_rewardbench.json --on published",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    run=run,
    format_text=format_text,
)
