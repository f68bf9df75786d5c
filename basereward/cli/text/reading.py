"""How the rows of a source are read, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PREFERENCES = 12  # that are listed


def reading(name: str, result: dict[str, Any]) -> Iterator[str]:
    """The columns of a source, and its first row: turns, pictures, answers, labels."""
    if result["columns"]:
        yield f"{name} reads " + ", ".join(_column(ours, theirs) for ours, theirs in result["columns"].items())
    if result["not_read"]:
        yield f"{name} does not read " + ", ".join(result["not_read"])
    yield from (f"{name}: {note}" for note in result["notes"])
    first = result["first"]
    if first is None:
        return
    yield f"{name}, row {first['id']}, as it is read:"
    yield from (f"  {turn['role']}: {_line(turn['text'])}" for turn in first["turns"])
    for number, image in enumerate(first["images"], start=1):
        place = f"in turn {image['turn'] + 1}" if len(first["turns"]) > 1 else "in the prompt"
        yield f"  image {number}: {image['width']}x{image['height']} pixels, {place}, {image['name']}"
    for index, response in enumerate(first["responses"]):
        rating = f" (rated {first['ratings'][index]:g})" if first["ratings"] else ""
        yield f"  response {index}{rating}: {_line(response)}"
    if first["num_responses"] > len(first["responses"]):
        yield f"  and {first['num_responses'] - len(first['responses'])} more responses"
    yield f"  labels: {_preferences(first['preferences'])}"
    texts = [f"{first[kind]} {kind}" for kind in ("critiques", "reasonings") if first[kind]]
    if texts:
        yield f"  with {' and '.join(texts)}"


def _column(ours: str, theirs: str) -> str:
    """
    >>> _column("prompt", "question"), _column("chosen", "chosen")
    ('prompt <- question', 'chosen')
    """
    return ours if ours == theirs else f"{ours} <- {theirs}"


def _preferences(preferences: list[dict[str, Any]]) -> str:
    """
    >>> _preferences([{"winner": 0, "loser": 1, "tie": False, "margin": 2.0}])
    '0 is better than 1 (margin 2)'
    """
    listed = []
    for each in preferences[:PREFERENCES]:
        relation = "ties with" if each["tie"] else "is better than"
        margin = "" if each["margin"] is None else f" (margin {each['margin']:g})"
        listed.append(f"{each['winner']} {relation} {each['loser']}{margin}")
    more = f", and {len(preferences) - PREFERENCES} more" if len(preferences) > PREFERENCES else ""
    return ", ".join(listed) + more


def _line(text: str) -> str:
    r"""A text on one line.

    >>> _line("one\ntwo")
    'one\\ntwo'
    """
    return text.replace("\n", "\\n")
