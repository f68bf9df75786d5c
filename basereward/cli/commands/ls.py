"""`basereward ls`: the names that can be used in recipes and on the command line, and the runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import check_choice
from basereward.cli.tables import format_number, format_table
from basereward.io.progress.displays import format_seconds

KINDS = (
    *("experiments", "profiles", "sources", "benchmarks"),
    *("heads", "losses", "objectives", "adapters", "tiny_models", "launchers", "rewards", "stages", "runs"),
)
STATES = ("running", "finished", "failed", "killed", "broken")
RUNNING = ("host", "devices", "step", "device hours", "left")
"""Columns of a list that has a run which is running."""
RENAMED = {"shapes": "adapters", "makers": "tiny_models"}
"""Former names of kinds, and what they are called now."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kind of things to list.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["heads"]).kind
    'heads'
    """
    parser.add_argument("kind", metavar="KIND", help=f"what to list: {', '.join(KINDS)}; runs are newest first")
    parser.add_argument("--experiment", metavar="NAME", help="list only the runs of one experiment (default: all)")
    parser.add_argument(
        "--state", metavar="STATE", help=f"list only the runs in one state: {', '.join(STATES)} (default: all)"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown kind or state, a kind by its former name, or a choice among runs for another kind.

    >>> check_arguments(argparse.Namespace(kind="makers", experiment=None, state=None))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown kind 'makers'; did you mean 'tiny_models'?
    """
    # The former names resemble the new ones too little for the suggestion of a misspelt name.
    if arguments.kind in RENAMED:
        raise UsageError(f"unknown kind '{arguments.kind}'; did you mean '{RENAMED[arguments.kind]}'?")
    check_choice("kind", arguments.kind, KINDS)
    check_choice("state", arguments.state, STATES)
    if arguments.kind != "runs" and (arguments.experiment is not None or arguments.state is not None):
        raise UsageError("--experiment and --state choose among runs; give them with `basereward ls runs`")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Lists one kind. Runs are folders, so that no tracking server is needed.

    >>> result, status = run(argparse.Namespace(kind="losses", experiment=None, state=None))
    >>> [entry["name"] for entry in result["losses"]]
    ['bradley_terry', 'plackett_luce']
    """
    if arguments.kind == "runs":
        from basereward.runs.listing import listed_runs

        runs = listed_runs(experiment=arguments.experiment, state=arguments.state)
        return {"runs": [run.as_dict() for run in runs]}, SUCCESS
    from basereward.recipe import names

    entries = names(arguments.kind)
    return {arguments.kind: [{"name": entry.name, "summary": entry.summary} for entry in entries]}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """One line a name.

    >>> list(format_text({"runs": []}))
    ['there are no runs']
    """
    ((kind, entries),) = result.items()
    if not entries:
        return iter([f"there are no {kind}"])
    if kind == "runs":
        return _format_runs(entries)
    return format_table((), [(entry["name"], entry["summary"]) for entry in entries])


def _format_runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table of runs, newest first, and why folders are broken."""
    is_running = any(run["state"] == "running" for run in runs)
    head = ("run", "date", "experiment", "cell", "state", "score", "duration", *(RUNNING if is_running else ()))
    rows = [(*_columns(run), *(_doing(run) if is_running else ())) for run in runs]
    yield from format_table(head, rows)
    for run in runs:
        if run["state"] == "broken":
            yield f"{run['name']} is broken: {run['error']}"


def _columns(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that every run has."""
    # To the minute: seconds are in the id, and a narrow terminal would wrap the line.
    date = run["created"][:16].replace("T", " ")
    kind = "" if run["kind"] in ("run", "stage") else f"{run['kind']}: "
    seconds = "-" if run["seconds"] is None else format_seconds(run["seconds"])
    texts = (date, run["experiment"], f"{kind}{run['cell']}", run["state"])
    return (run["name"], *(text or "-" for text in texts), format_number(run["score"]), seconds)


def _doing(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns `RUNNING`, empty for a run that has ended."""
    if run["state"] != "running":
        return ("-",) * len(RUNNING)
    hours = "-" if run["device_hours"] is None else f"{run['device_hours']:.2f}"
    left = "-" if run["remaining_s"] is None else format_seconds(run["remaining_s"])
    return (run["host"] or "-", run["devices"] or "-", run["progress"] or "-", hours, left)


COMMAND = Command(
    summary="list what recipes can name (experiments, sources, heads, losses and others), or the runs",
    examples=("basereward ls heads", "basereward ls runs --experiment head_depth --state finished"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
    takes_trust=False,
)
