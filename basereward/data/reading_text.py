"""Formats how the rows of a source are read, as lines of text. It imports nothing heavy, for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_PREFERENCES = 12
"""Preferences of the first row that are listed; a ranking of many responses has hundreds."""


def format_reading(name: str, reading: Mapping[str, Any]) -> Iterator[str]:
    """The format and the columns of a source, and its first row: turns, images, responses, labels.

    Args:
        name: of the source.
        reading: from `basereward.data.summary.describe_reading`.

    >>> reading = {"formats": ["TRL"], "columns": {"prompt": "question"}, "not_read": ["id"], "notes": []}
    >>> reading["first"] = None
    >>> list(format_reading("pairs", reading))
    ['pairs is read as TRL', 'pairs reads prompt <- question', 'pairs does not read id']
    """
    if reading["formats"]:
        yield f"{name} is read as " + "; ".join(reading["formats"])
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
    yield from _format_visuals(row)
    yield from _format_responses(row)
    if row["preferences"]:
        yield f"  labels: {_format_preferences(row['preferences'])}"
    annotations = [f"{row[kind]} {kind}" for kind in ("critiques", "reasonings") if row[kind]]
    if annotations:
        yield f"  with {' and '.join(annotations)}"


def _format_visuals(row: Mapping[str, Any]) -> Iterator[str]:
    for number, image in enumerate(row["images"], start=1):
        size = f"{image['width']}x{image['height']} pixels"
        yield f"  image {number}: {size}, {_place(image, row)}, {image['name']}"
    # Rows that earlier versions described have no videos.
    for number, video in enumerate(row.get("videos", ()), start=1):
        rate = "" if video["fps"] is None else f", {video['fps']:g} a second"
        size = f"{video['width']}x{video['height']} pixels"
        yield f"  video {number}: {video['frames']} frames of {size}{rate}, {_place(video, row)}, {video['name']}"


def _place(visual: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if "response" in visual:
        return f"in response {visual['response']}"
    return f"in turn {visual['turn'] + 1}" if len(row["turns"]) > 1 else "in the prompt"


def _format_responses(row: Mapping[str, Any]) -> Iterator[str]:
    for index, response in enumerate(row["responses"]):
        rating = f" (rated {row['ratings'][index]:g})" if row["ratings"] else ""
        yield f"  response {index}{rating}: {_one_line(response)}"
    if row["num_responses"] > len(row["responses"]):
        yield f"  and {row['num_responses'] - len(row['responses'])} more responses"


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
