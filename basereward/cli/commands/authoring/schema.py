"""`basereward schema`: the JSON schema by which an editor completes and checks a YAML file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult
from basereward.cli.options import check_choice

KINDS = ("experiment", "data", "source", "benchmark", "published")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kind of file, and where the schema is written.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args([]).kind
    'experiment'
    """
    parser.add_argument(
        "kind",
        metavar="KIND",
        nargs="?",
        default="experiment",
        help=f"kind of file: {', '.join(KINDS)} (default: experiment, which profiles and mixtures are too)",
    )
    parser.add_argument("--out", metavar="FILE", help="write the schema to this file (default: print it)")


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown kind.

    >>> check_arguments(argparse.Namespace(kind="sources"))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown kind 'sources'; did you mean 'source'? ...
    """
    check_choice("kind", arguments.kind, KINDS)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Makes the schema from the code, and writes or returns it.

    >>> result, status = run(argparse.Namespace(kind="source", out=None))
    >>> result["schema"]["title"]
    'BaseReward source'
    """
    schema = _schema(arguments.kind)
    if arguments.out is None:
        return {"kind": arguments.kind, "schema": schema}, SUCCESS
    from basereward.recipe.json_schema.files import write_schema

    write_schema(schema, Path(arguments.out))
    return {"kind": arguments.kind, "out": arguments.out}, SUCCESS


def _schema(kind: str) -> dict[str, Any]:
    if kind == "published":
        from basereward.evaluation.published.json_schema import published_schema

        return published_schema()
    from basereward.recipe.json_schema.documents import DOCUMENTS

    return DOCUMENTS[kind]()


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The schema alone, so that it can be saved as it is; or the file that it was written to.

    >>> list(format_text({"kind": "source", "out": "source.json"}))
    ['source.json is written; name it in the first line of a file: # yaml-language-server: $schema=source.json']
    """
    if "schema" in result:
        yield json.dumps(result["schema"], indent=1)
    else:
        modeline = f"# yaml-language-server: $schema={Path(result['out']).name}"
        yield f"{result['out']} is written; name it in the first line of a file: {modeline}"


COMMAND = Command(
    summary="print the JSON schema by which an editor completes and checks a YAML file",
    activity="schema: {kind}",
    examples=("basereward schema --out experiments/schemas/experiment.json", "basereward schema source"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
    takes_trust=False,
)
