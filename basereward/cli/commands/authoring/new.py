"""`basereward new`: a commented recipe to start from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name, and the experiment to copy.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["mine", "--from", "head_depth"]).origin
    'head_depth'
    """
    parser.add_argument("name", metavar="NAME", help="name of the new experiment; its file is experiments/NAME.yaml")
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="EXPERIMENT",
        help="experiment to copy: a name in experiments/, or path to a YAML file (default: a commented template)",
    )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Writes the file, and finds out by which command it is run."""
    from basereward.recipe.load import find_experiment
    from basereward.recipe.new_experiment import TEMPLATE, new_experiment

    new = new_experiment(arguments.name, origin=arguments.origin or TEMPLATE)
    experiment, _ = find_experiment(new.name)
    command = "sweep" if len(experiment.cells) > 1 else "train"
    following = [f"basereward check {new.name}", f"basereward {command} {new.name} --profile tiny"]
    return {"name": new.name, "path": str(new.path), "from": str(new.origin), "next": following}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The file, and the commands that come next.

    >>> result = {"name": "mine", "path": "mine.yaml", "from": "a.yaml", "next": ["basereward check mine"]}
    >>> list(format_text(result))
    ['mine.yaml is written, a copy of a.yaml. Edit it; the next commands are:', '  basereward check mine']
    """
    yield f"{result['path']} is written, a copy of {result['from']}. Edit it; the next commands are:"
    for command in result["next"]:
        yield f"  {command}"


COMMAND = Command(
    summary="write a commented recipe into ./experiments, to start from",
    examples=("basereward new my_experiment", "basereward new my_heads --from head_depth"),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
    takes_trust=False,
)
