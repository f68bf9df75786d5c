"""`basereward ensemble`: one model of several trained ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import MODEL_FORMS, check_choice
from basereward.cli.tables import format_number, format_table
from basereward.errors import ModelError
from basereward.io.progress import phase
from basereward.recipe.schema import WAYS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the members and how they are combined.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["run_a", "run_b", "--how", "accuracy"]).models
    ['run_a', 'run_b']
    """
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL_FORMS)
    parser.add_argument(
        "--how", metavar="HOW", default="mean", help=f"how scores are combined: {', '.join(WAYS)} (default: mean)"
    )
    parser.add_argument(
        "--text",
        metavar="MODEL",
        action="append",
        default=[],
        help="model that scores prompts without images; repeat the option for several (default: all models)",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the ensemble's run (default: ensemble-HOW)")
    parser.add_argument(
        "--pairs",
        metavar="N",
        type=int,
        default=1000,
        help="validation pairs that the weights are estimated from, as many of each source and at least one of each "
        "(default: 1000)",
    )
    parser.add_argument(
        "--k",
        metavar="K",
        type=float,
        default=1.0,
        help="standard deviations that `pessimistic` subtracts from the mean (default: 1)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="random seed of the draw of validation pairs (default: 0)"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks the name of the rule here, because the library that also checks it takes seconds to import.

    Raises:
        ModelError: there is no such rule.

    >>> check_arguments(argparse.Namespace(how="maen"))
    Traceback (most recent call last):
    basereward.errors.ModelError: unknown way to combine 'maen'; did you mean 'mean'? ...
    """
    check_choice("way to combine", arguments.how, WAYS, error=ModelError)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Makes the ensemble as a run of its own."""
    with phase(LOADING_LIBRARIES):
        from basereward.training.ensembles.make import ensemble

    result = ensemble(
        arguments.models,
        how=arguments.how,
        text=arguments.text,
        name=arguments.name,
        pairs=arguments.pairs,
        k=arguments.k,
        seed=arguments.seed,
    )
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The members with their weights and accuracies, and the accuracy of the ensemble.

    >>> member = {"name": "a", "weight": 0.5, "text_weight": 0.5, "interval": None, "accuracy": 0.9}
    >>> result = {"members": [member, {**member, "name": "b"}], "accuracy": 0.95, "how": "mean", "run_id": "r1"}
    >>> list(format_text(result))[-2:]
    ['together 0.9500 on the same validation pairs', 'mean of 2 members: run r1']
    """
    yield from (*_format_members(result["members"]), "")
    if result["accuracy"] is not None:
        yield "together {accuracy:.4f} on the same validation pairs".format(**result)
    yield "{how} of {count} members: run {run_id}".format(count=len(result["members"]), **result)


def _format_members(members: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One row a member. Weights have two columns where prompts without images use other weights."""
    is_routed = any(member["weight"] != member["text_weight"] for member in members)
    # Title of the column, and what its keys begin with in the result.
    prefixes = {"weight with images": "", "weight without": "text_"} if is_routed else {"weight": ""}
    intervals: list[Any] = []
    for prefix in prefixes.values():
        intervals += [member[f"{prefix}interval"] for member in members]
    # Only learned weights have intervals; for other rules the columns would be empty.
    has_intervals = any(intervals)
    head = ["member"]
    for title in prefixes:
        head += [title, "95 %"] if has_intervals else [title]
    rows = []
    for member in members:
        row = [member["name"]]
        for prefix in prefixes.values():
            row.append(format_number(member[f"{prefix}weight"]))
            if has_intervals:
                row.append(_format_interval(member[f"{prefix}interval"]))
        rows.append([*row, format_number(member["accuracy"])])
    yield from format_table([*head, "accuracy"], rows)


def _format_interval(interval: Sequence[float] | None) -> str:
    """
    >>> _format_interval([0.25, 0.5]), _format_interval(None)
    ('0.2500 to 0.5000', '-')
    """
    return "-" if interval is None else "{:.4f} to {:.4f}".format(*interval)


COMMAND = Command(
    summary="combine several trained models into one",
    activity="ensemble: opening {models}",
    examples=("basereward ensemble run_a run_b run_c --how accuracy --name three",),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
