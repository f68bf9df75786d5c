"""`basereward data`: what a recipe would train on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import add_cluster_arguments, add_recipe_arguments, parse_cluster
from basereward.cli.tables import format_counts, format_table
from basereward.data.reading_text import format_reading
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe, and where its rows are read.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["basereward"]).on
    'local'
    """
    add_recipe_arguments(parser)
    add_cluster_arguments(parser)


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        BaseRewardError: as `parse_cluster`.

    >>> check_arguments(argparse.Namespace(on="local", address=None, shards=None, workers=None))
    """
    parse_cluster(arguments)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Reads the data of a recipe and counts them."""
    from basereward.recipe import Cell, load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    # Only after the recipe is found right: these imports take seconds.
    with phase(LOADING_LIBRARIES):
        from basereward.training.data_summary import preview
        from basereward.training.preflight import cell_faults

    faults = cell_faults([Cell(recipe.name, recipe.name, {}, recipe)])
    # Faults do not stop this command, because it is the one with which a person finds their cause.
    fault_objects = [{"cell": fault.cell, "key": fault.key, "message": fault.message} for fault in faults]
    return {**preview(recipe, cluster=parse_cluster(arguments)), "faults": fault_objects}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """A table of the sources, the totals, the faults, and how the columns of each source are read."""
    # One row for each source: the table answers which share of an epoch each of them has.
    head = ("source", "train", "val", "test", "images", "tokens", "of groups", "of tokens", "lost")
    rows = [_source_row(name, source) for name, source in result["sources"].items()]
    yield from (*format_table(head, rows), "")
    modality = ", ".join(f"{kind} {share:.2%}" for kind, share in result["modality"].items())
    yield "an epoch: {epoch_groups:,} groups, {epoch_tokens:,} tokens; ".format(**result) + modality
    steps = "{steps:,} steps of {groups_per_step} groups in {forwards_per_step} forward passes".format(**result)
    yield f"{steps}; padding {result['padding']:.2%}"
    for fault in result["faults"]:
        yield f"train refuses: {fault['key']}: {fault['message']}"
    for name, source in result["sources"].items():
        yield ""
        yield from format_reading(name, source["reading"])


def _source_row(name: str, source: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [*source["groups"].values(), source["images"], source["tokens"]]
    numbers = [f"{count:,}" for count in counts]
    shares = [f"{source[key]:.2%}" for key in ("share_of_groups", "share_of_tokens")]
    return (name, *numbers, *shares, format_counts(source["lost"]) or "-")


COMMAND = Command(
    summary="count what would be trained on: rows, tokens, shares; no model is loaded",
    activity="data: reading the recipe of {experiment} on profile {profile}",
    examples=("basereward data basereward", "basereward data basereward data.mixture.limits.digits=100 --json"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
