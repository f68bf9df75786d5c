"""`basereward ls`: the names that can be used in recipes and on the command line, and the runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import check_choice
from basereward.cli.tables import format_table

KINDS = (
    *("experiments", "profiles", "sources", "benchmarks"),
    *("heads", "losses", "objectives", "adapters", "tiny_models", "launchers", "runs"),
)
RENAMED = {"shapes": "adapters", "makers": "tiny_models"}
"""Former names of kinds, and what they are called now."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kind of things to list.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["heads"]).kind
    'heads'
    """
    parser.add_argument("kind", metavar="KIND", help=f"what to list: {', '.join(KINDS)}")


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown kind, or one by its former name. The message has the name to use.

    >>> check_arguments(argparse.Namespace(kind="makers"))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown kind 'makers'; did you mean 'tiny_models'?
    """
    # The former names resemble the new ones too little for the suggestion of a misspelt name.
    if arguments.kind in RENAMED:
        raise UsageError(f"unknown kind '{arguments.kind}'; did you mean '{RENAMED[arguments.kind]}'?")
    check_choice("kind", arguments.kind, KINDS)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Lists one kind. Runs are folders, so that no tracking server is needed.

    >>> result, status = run(argparse.Namespace(kind="losses"))
    >>> [entry["name"] for entry in result["losses"]]
    ['bradley_terry', 'plackett_luce']
    """
    if arguments.kind == "runs":
        from basereward.runs.run_folder import broken_runs, list_runs

        entries = [(run.run_id, f"{run.name}, {run.state}") for run in list_runs()]
        # Broken folders too: otherwise a run that cannot be read would look as if it had never been.
        entries += [(name, f"broken: {reason}") for name, reason in broken_runs().items()]
    else:
        from basereward.recipe import names

        entries = [(entry.name, entry.summary) for entry in names(arguments.kind)]
    return {arguments.kind: [{"name": name, "summary": summary} for name, summary in entries]}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """One line a name.

    >>> list(format_text({"runs": []}))
    ['there are no runs']
    """
    ((kind, entries),) = result.items()
    rows = [(entry["name"], entry["summary"]) for entry in entries]
    return format_table((), rows) if rows else iter([f"there are no {kind}"])


COMMAND = Command(
    summary="list what recipes can name (experiments, sources, heads, losses and others), or the runs",
    examples=("basereward ls heads", "basereward ls runs --json"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
    takes_trust=False,
)
