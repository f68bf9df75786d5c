"""`basereward data`: what a recipe would train on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import add_recipe_arguments
from basereward.cli.tables import format_counts, format_table
from basereward.io.progress import phase

MAX_PREFERENCES = 12
"""Preferences of the first row that are listed; a ranking of many responses has hundreds."""


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
    return {**preview(recipe), "faults": fault_objects}, SUCCESS


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


def format_reading(name: str, reading: Mapping[str, Any]) -> Iterator[str]:
    """The columns of a source, and its first row: turns, images, responses, labels.

    >>> reading = {"columns": {"prompt": "question"}, "not_read": ["id"], "notes": [], "first": None}
    >>> list(format_reading("pairs", reading))
    ['pairs reads prompt <- question', 'pairs does not read id']
    """
    if reading["columns"]:
        yield f"{name} reads " + ", ".join(_format_column(ours, theirs) for ours, theirs in reading["columns"].items())
    if reading["not_read"]:
        yield f"{name} does not read " + ", ".join(reading["not_read"])
    for note in reading["notes"]:
        yield f"{name}: {note}"
    if reading["first"] is not None:
        yield from _format_first_row(name, reading["first"])


def _format_first_row(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}, row {row['id']} as it is read:"
    for turn in row["turns"]:
        yield f"  {turn['role']}: {_one_line(turn['text'])}"
    for number, image in enumerate(row["images"], start=1):
        place = f"in turn {image['turn'] + 1}" if len(row["turns"]) > 1 else "in the prompt"
        yield f"  image {number}: {image['width']}x{image['height']} pixels, {place}, {image['name']}"
    for index, response in enumerate(row["responses"]):
        rating = f" (rated {row['ratings'][index]:g})" if row["ratings"] else ""
        yield f"  response {index}{rating}: {_one_line(response)}"
    if row["num_responses"] > len(row["responses"]):
        yield f"  and {row['num_responses'] - len(row['responses'])} more responses"
    yield f"  labels: {_format_preferences(row['preferences'])}"
    annotations = [f"{row[kind]} {kind}" for kind in ("critiques", "reasonings") if row[kind]]
    if annotations:
        yield f"  with {' and '.join(annotations)}"


def _format_column(ours: str, theirs: str) -> str:
    """
    >>> _format_column("prompt", "question"), _format_column("chosen", "chosen")
    ('prompt <- question', 'chosen')
    """
    return ours if ours == theirs else f"{ours} <- {theirs}"


def _format_preferences(preferences: Sequence[Mapping[str, Any]]) -> str:
    """
    >>> _format_preferences([{"winner": 0, "loser": 1, "tie": False, "margin": 2.0}])
    '0 is better than 1 (margin 2)'
    """
    texts = []
    for preference in preferences[:MAX_PREFERENCES]:
        relation = "ties with" if preference["tie"] else "is better than"
        margin = "" if preference["margin"] is None else f" (margin {preference['margin']:g})"
        texts.append(f"{preference['winner']} {relation} {preference['loser']}{margin}")
    num_hidden = len(preferences) - MAX_PREFERENCES
    more = f", and {num_hidden} more" if num_hidden > 0 else ""
    return ", ".join(texts) + more


def _one_line(text: str) -> str:
    r"""The text on one line of the terminal.

    >>> _one_line("one\ntwo")
    'one\\ntwo'
    """
    return text.replace("\n", "\\n")


COMMAND = Command(
    summary="count what would be trained on: rows, tokens, shares; no model is loaded",
    activity="data: reading the recipe of {experiment} on profile {profile}",
    examples=("basereward data basereward", "basereward data basereward data.mixture.limits.digits=100 --json"),
    add_arguments=add_recipe_arguments,
    run=run,
    format_text=format_text,
)
